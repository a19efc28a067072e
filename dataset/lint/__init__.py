"""The linter: what is wrong with the rows of a training file, each finding with a code, a line, and what mends it.

`lint` in `linter` reads a file once, in bounded memory; `catalogue` is the list of its codes. Of files that are not JSON
Lines `dataset.conversion` makes such; `dataset.mending` writes a mended copy.
"""
