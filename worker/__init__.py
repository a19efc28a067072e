"""A job in, a model out: the Celery process that claims jobs, supervises its trainer and publishes what that makes.

Imports `storage`, and of `training` the messages and a checkpoint's folder only; no torch. Begin with `tasks`, then
`job.run`: one attempt from the claim to its end.
"""
