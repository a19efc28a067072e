"""Weights that leave or come: a tuned model merged into its base, as a folder that transformers loads or as GGUF, and adapters that
others made, checked and written anew.

`python -m modeling.transfers REQUEST` does one of these in a process of its own, for the errands, which know no model. Imports `modeling`
and `foundation`. Begin with `__main__`, then `merged`.
"""
