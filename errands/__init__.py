"""The Celery process for what needs no trainer: batches and webhooks.

Imports `storage`. Begin with `tasks`; `errands` is what the process holds.
"""
