"""The trainer process: files in, step metrics and checkpoints out. Tensors only: no database, no blobs, no network.

Imports `modeling` and what is below it. Begin with `messages`, what is said over the pipe; `process` answers it, `train` is the
program of a job.
"""
