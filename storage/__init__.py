"""Everything that outlives a process: rows, blobs, the queue, the states of a job.

Imports `foundation`; no web framework, no torch. Begin with `jobs.jobs`: who may work on a job is decided there. `database`
has sessions and the base of every row, `transactions` what makes a commit take effect once.
"""
