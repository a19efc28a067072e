"""Reports: once a job has succeeded, what its tuning did is measured and told.

Begin with `run`, one attempt at a report; `sections` are what it is made of. What is asked of models is asked through the
gateway under the job's project, a little at a time, and kept as it comes.
"""
