"""/v1/webhook_endpoints: where a project hears of its jobs and batches.

Begin with `endpoints`.
"""
