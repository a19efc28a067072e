"""One attempt at a job: prepare, resolve what is "auto", supervise, publish, finish, resume.

Imports what `worker` may. Begin with `run`, which calls the others in order.
"""
