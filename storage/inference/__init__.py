"""What inference leaves behind: stored completions, responses and conversations, and batches with their answers.

Imports the files of `storage` beside it. Begin with `batches`.
"""
