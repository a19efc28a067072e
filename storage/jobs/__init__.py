"""Fine-tuning jobs and what belongs to one: events, checkpoints, pauses, and whose turn it is.

Imports the files of `storage` beside it. Begin with `jobs`.
"""
