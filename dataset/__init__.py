"""Rows of a training file: what may stand in them, and what they become.

Imports `text` and `foundation`. Begin with `rows`, the form of a row and the words for what is wrong with it;
`tokenized` makes examples of rows, `examples` keeps them on disk.
"""
