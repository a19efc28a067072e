"""Models: the bases that are served, the trained weights, the names that point at them, and who may use them.

Imports the files of `storage` beside it. Begin with `models`; `base_models` is the catalogue of bases.
"""
