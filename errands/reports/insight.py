"""What is measured of a report's model by the process that knows models, part by part; each is kept as it comes."""

from __future__ import annotations

import glob
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import structlog

from errands import model_process
from errands.model_process import ProcessDied
from storage.blobs import archive
from storage.jobs import checkpoints
from storage.models import models
from storage.models.artifacts import ArtifactRow
from storage.models.base_models import Catalogue

from .cases import Case
from .context import ReportContext, SectionSkipped
from .parts import Answered

COMMAND = (sys.executable, "-m", "modeling.insight")
KEPT = "insight"
"""The folder for what is the same for every model of a base, in the data directory."""
FIRST_S = 300.0
"""What a base's first report may take beyond its budget, for what all of its models go by afterwards."""
OVER_BUDGET = "the report's budget of time was spent before it was done"

Json = dict[str, Any]

log = structlog.get_logger()


def measure(
    context: ReportContext,
    section: str,
    parts: Sequence[Json],
    *,
    limit_s: float,
    with_checkpoints: bool = False,
) -> dict[str, Json]:
    """What each part found, by its name: `{"skipped": reason}` of one that has nothing to say or was not reached.

    Raises SectionSkipped where nothing can be measured, LostLease and Stopped.
    """
    kept = context.parts.answers(section)
    found: dict[str, Json] = {
        part["part"]: json.loads(kept[_key(part["part"])].text)
        for part in parts
        if _key(part["part"]) in kept
    }
    missing = [part for part in parts if part["part"] not in found]
    if missing:
        folder = context.folder / f"{section}-insight"
        folder.mkdir()
        request = _request(context, missing, folder, with_checkpoints=with_checkpoints)
        for name, told in _told(context, request, folder, limit_s):
            found[name] = told
            context.parts.keep_answers(section, [Answered(_key(name), text=json.dumps(told))])
    return found | {
        part["part"]: {"skipped": OVER_BUDGET} for part in parts if part["part"] not in found
    }


def first_s(context: ReportContext) -> float:
    """How much longer the base's samples may take: nothing once they are kept."""
    kept = context.errands.settings.data_dir / KEPT
    is_kept = any(kept.glob(f"{glob.escape(context.base)}@*/states-*"))
    return 0.0 if is_kept else FIRST_S


def write_rows(path: Path, cases: Sequence[Case]) -> Path:
    """As training rows, of which the wanted answer alone counts."""
    path.write_text("".join(f"{json.dumps(_row(case))}\n" for case in cases), encoding="utf-8")
    return path


def _row(case: Case) -> Json:
    if not case.is_chat:
        return {"name": case.key, "prompt": case.prompt, "completion": case.wanted.text}
    before = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in case.messages]
    wanted: Json = {"role": "assistant", "content": case.wanted.text}
    if case.wanted.tool_calls:
        wanted["tool_calls"] = list(case.wanted.tool_calls)
    row: Json = {"name": case.key, "messages": [*before, wanted]}
    return row | {"tools": list(case.tools)} if case.tools else row


def _key(part: str) -> str:
    return f"part:{part}"


def _request(
    context: ReportContext, parts: Sequence[Json], folder: Path, *, with_checkpoints: bool
) -> Json:
    errands = context.errands
    if not errands.knows_models:
        raise SectionSkipped("this server's errands have no torch to look into models with")
    base = Catalogue.load(errands.settings.data_dir, errands.settings.aliases).get(context.base)
    if base is None:
        raise SectionSkipped(f"the base model {context.base} is not known to this server any more")
    return {
        "base": {"id": base.id, "source": base.source, "revision": base.revision},
        "bases_dir": str(errands.settings.bases_dir.resolve()),
        "kept_dir": str((errands.settings.data_dir / KEPT).resolve()),
        "model": _fetched(context, "the model", context.artifact, folder),
        "checkpoints": _checkpoints(context, folder) if with_checkpoints else [],
        "parts": list(parts),
        "seed": context.seed,
    }


def _checkpoints(context: ReportContext, folder: Path) -> list[Json]:
    """Those before the model itself that are still there."""
    with context.errands.sessions() as session:
        rows = [
            (row.step, models.find(session, context.job.project_id, row.model_name))
            for row in checkpoints.all(session, context.job.id)
        ]
    return [
        _fetched(context, f"step {step}", found[1], folder)
        for step, found in rows
        if found is not None and found[1].id != context.artifact.id
    ]


def _fetched(context: ReportContext, name: str, artifact: ArtifactRow, folder: Path) -> Json:
    packed = folder / f"{artifact.id}.tar"
    context.errands.blobs.get_file(
        artifact.blob_key, packed, size_bytes=artifact.size_bytes, sha256=artifact.sha256
    )
    unpacked = archive.unpack(packed, folder / artifact.id)
    packed.unlink()
    context.lease.check()
    return {"name": name, "folder": str(unpacked), "kind": artifact.kind}


def _told(
    context: ReportContext, request: Json, folder: Path, limit_s: float
) -> Iterator[tuple[str, Json]]:
    """Each part that is done, until all are or the time is over."""
    began_s = time.monotonic()
    news = model_process.news(
        context.errands,
        COMMAND,
        request,
        folder,
        log_name="insight",
        check=_Within(context, began_s + limit_s),
    )
    try:
        with closing(news):
            for each in news:
                if "end" in each:
                    return
                if "failed" in each:
                    raise SectionSkipped(str(each["failed"]))
                if "done" in each:
                    yield each["part"], {**each["done"], "seconds": each["seconds"]}
                elif "skipped" in each:
                    yield each["part"], {"skipped": each["skipped"]}
    except _TimeOver:
        return
    except ProcessDied as error:
        # It may have been too large for this machine, and would be again.
        log.warning("report.insight_died", id=context.lease.report.id, error=str(error))
        raise SectionSkipped(
            "the process that looks into models ended: the server's insight.log says how"
        ) from None


class _TimeOver(Exception):
    pass


class _Within:
    """Raises LostLease, and _TimeOver behind the moment."""

    def __init__(self, context: ReportContext, until_s: float) -> None:
        self._context = context
        self._until_s = until_s

    def __call__(self) -> None:
        self._context.lease.check()
        if time.monotonic() > self._until_s:
            raise _TimeOver
