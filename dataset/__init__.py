"""Rows of a training file: what may stand in them, and what they become.

Imports `text` and `foundation`. Begin with `validation`, the one pass over a file; `rows` is the form of a row and
the words for what is wrong with it, `tokenized` makes examples of rows and counts them, `examples` keeps them on
disk.
"""
