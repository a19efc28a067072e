"""The Celery process for what needs no trainer: batches, webhooks, exports and imports of models, reports.

Imports `storage`. Begin with `tasks`; `errands` is what the process holds.
"""
