"""`python -m worker.forecasting REQUEST`: reads a job's files as the worker would, in a process that ends with whoever started it.

REQUEST is a file of JSON, see `ForecastRequest`. On stdout comes a line of JSON each time there is news: `{"progress": 0.25}`, and as the
last one `{"done": …}`, or `{"failed": message, "code": …, "param": …}`: what such a job would fail with.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dataset.task_type import last_turn
from dataset.tokenized import Statistics
from dataset.validation import InvalidFile, Role, validate
from foundation import leash
from foundation.documents import reader_of
from storage.forecasts.gain import PILOT_ROWS
from storage.models.base_models import BaseModel as Base
from training.messages import Trainable
from worker import bases
from worker.bases import Bases
from worker.endings import JobFailed, Setback
from worker.job import planning, trainables

from .vote import vote

READ_BYTES = 1 << 18
PROGRESS_INTERVAL_S = 0.25


class _LocalFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    filename: str
    path: Path


class _BegunModel(BaseModel):
    """A tuned model that the job would go on from, unpacked."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    spec: dict[str, Any]
    folder: Path


class ForecastRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    asked: dict[str, Any]
    """As `storage.jobs.jobs.asked` tells a job."""
    base: dict[str, Any]
    """As the catalogue has it."""
    bases_dir: Path
    log_dir: Path
    files: dict[Role, _LocalFile]
    begun: _BegunModel | None
    folder: Path
    """Empty, for what is tokenised."""


def run(request: ForecastRequest) -> dict[str, Any]:
    """Raises InvalidFile, JobFailed, Setback and OSError."""
    base = Base(**{**request.base, "aliases": tuple(request.base["aliases"])})
    base_path = Bases(request.bases_dir, request.log_dir).path(base, lambda: None)
    begun = _begun(request.begun)
    reading = planning.reading(request.asked, base, begun)
    template = bases.read_template(base, base_path)
    progress = _Progress(sum(file.path.stat().st_size for file in request.files.values()))
    statistics: dict[Role, Statistics] = {}
    for role, file in request.files.items():
        statistics[role] = validate(
            progress.read(file.path),
            request.folder / role,
            template,
            max_seq_len=reading.max_seq_len,
            role=role,
            file_id=file.id,
            method=request.asked["method"],
            overlap=reading.overlap(role),
            labels=reading.labels,
            reader=reader_of(file.filename),
        )
    found = planning.planned(
        request.asked, reading, statistics, request.folder, base, base_path, begun
    )
    return {
        "plan": found.plan.to_json(),
        "vote": _vote(request.files["training"], statistics["training"], request.asked["method"]),
    }


def _begun(model: _BegunModel | None) -> Trainable | None:
    return None if model is None else trainables.of_artifact(model.kind, model.spec, model.folder)


def _vote(file: _LocalFile, known: Statistics, method: str) -> dict[str, Any] | None:
    """Of rows that were found to be good."""
    if method not in ("supervised", "classification") or known.num_rows >= PILOT_ROWS:
        return None
    reader = reader_of(file.filename)
    with file.path.open("rb") as content:
        rows = [
            row
            for chunk in iter(lambda: content.read(READ_BYTES), b"")
            for row in reader.feed(chunk)
        ]
    rows += reader.close()
    return vote([turn for _, row in rows if (turn := last_turn(row)) is not None])


class _Progress:
    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = max(total_bytes, 1)
        self._read_bytes = 0
        self._told_at = time.monotonic()

    def read(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                yield chunk
                self._read_bytes += len(chunk)
                if time.monotonic() - self._told_at > PROGRESS_INTERVAL_S:
                    self._told_at = time.monotonic()
                    _say({"progress": self._read_bytes / self._total_bytes})


def _say(news: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


def answer(request: ForecastRequest) -> dict[str, Any]:
    """The last line. Raises OSError."""
    try:
        return {"done": run(request)}
    except InvalidFile as error:
        return {"failed": error.message, "code": error.code, "param": error.param}
    except JobFailed as error:
        return {"failed": error.message, "code": error.code, "param": error.param}
    except Setback as error:
        return {"failed": error.message, "code": error.code, "param": None}


def main() -> int:
    leash.exit_with_parent()
    _say(answer(ForecastRequest.model_validate_json(Path(sys.argv[1]).read_bytes())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
