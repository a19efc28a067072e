"""Rows of a training file: what may stand in them, and what they become.

Imports `text` and `foundation`. Begin with `validation`, the one pass over a file; `formats` are the forms of a row,
`tokenized` makes examples of rows and counts them, `windows` cuts long ones, `examples` keeps them on disk.
"""
