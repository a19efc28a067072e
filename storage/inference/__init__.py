"""What inference leaves behind: stored completions, and batches with their answers.

Imports the files of `storage` beside it. Begin with `batches`.
"""
