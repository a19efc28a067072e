"""/v1/fine_tuning: jobs, their events and checkpoints, permissions, graders.

Begin with `jobs`; `request` is the body of create-job.
"""
