"""The trainer process: files in, step metrics and checkpoints out. Tensors only: no database, no blobs, no network.

Imports `modeling` and what is below it. Begin with `messages`, what is said over the pipe; `process` answers it, `course` is
what every job goes through, `programs` what a step of each method does, in terms of `primitives`.
"""
