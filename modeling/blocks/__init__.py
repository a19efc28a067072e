"""The parts of a decoder's block as training computes them: transformers' numbers with fewer passes over memory.

Each part has a backward of its own that keeps little. Begin with `parts`, which puts them into a model.
"""
