"""What an answer is worth beside the one that a row wants, by the kind of task. Pure functions of texts and calls.

Begin with `measures`, which knows the primary measure of each kind: it is settled before anything is asked.
"""
