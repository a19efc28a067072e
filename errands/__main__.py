"""`python -m errands`: a Celery worker without a trainer; it runs batches and delivers webhooks."""

from __future__ import annotations

from storage import celery_process, queue


def main() -> int:
    needs = ("database_url", "broker_url", "blob_url", "api_url", "internal_key")
    return celery_process.run("errands.tasks", queue.ERRANDS_QUEUE, needs=needs)


if __name__ == "__main__":
    raise SystemExit(main())
