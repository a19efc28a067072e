"""Reports: what a job's tuning did, made once the job has succeeded.

`reports` are their rows, `parts` what is known so far of one that is being made.
"""
