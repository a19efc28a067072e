"""`python -m worker`: a Celery worker in this process, with its trainer at its side."""

from __future__ import annotations

from storage import celery_process, queue


def main() -> int:
    return celery_process.run(
        "worker.tasks", queue.TRAIN_QUEUE, needs=("database_url", "broker_url", "blob_url")
    )


if __name__ == "__main__":
    raise SystemExit(main())
