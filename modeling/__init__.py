"""The one place that knows a model: bases and their import, attention over packed examples, trainable/, what jobs change of
a base, and artifacts/, the files of what training makes.

Imports `dataset`, `text` and `foundation`; torch, but no storage. Begin with `base`, or with `importer` for where a base comes
from.
"""
