"""The model card of an export: README.md, whose head is what model hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.jobs.jobs import JobRow
from storage.models.artifacts import ArtifactRow
from storage.models.base_models import BaseModel
from storage.models.models import ModelRow
from storage.models.transfers import TransferRow

NAME = "README.md"

Json = Mapping[str, Any]

_USE = {
    "peft": "An adapter in PEFT's format: `PeftModel.from_pretrained(base, folder)`.",
    "safetensors": "A whole model in bf16: `AutoModelForCausalLM.from_pretrained(folder)`.",
    "gguf": "A whole model as GGUF, for llama.cpp and whatever reads its files.",
}
_LIBRARIES = {"peft": "peft", "safetensors": "transformers", "gguf": "gguf"}


@dataclass(frozen=True)
class Facts:
    """What there is to know of an exported model."""

    transfer: TransferRow
    model: ModelRow
    artifact: ArtifactRow
    base: BaseModel
    job: JobRow | None
    """None for one that was made elsewhere, or whose job is gone."""
    metrics: Json | None
    """Of the checkpoint that the model is."""
    data_sha256: Json
    report: Json | None = None
    """On the job, if it is there and the model is what it speaks of."""


def text(facts: Facts) -> str:
    sections = [
        _head(facts),
        f"# {facts.model.name}",
        f"Tuned from {facts.base.id}. {_USE[facts.transfer.format or '']}",
        _section("Base", _base(facts)),
        _section("Training", _training(facts)),
        _section("Data", _data(facts)),
        _section("Metrics", dict(facts.metrics or {})),
        _report(facts),
        "## Check\n\n`luthier verify FOLDER` compares every file with `manifest.json`, and its signature with "
        "the key of the installation that made it.",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _head(facts: Facts) -> str:
    """YAML, of which JSON is a part."""
    fields: dict[str, Any] = {
        "base_model": _origin(facts.base),
        "license": facts.base.license or "unknown",
        "library_name": _LIBRARIES[facts.transfer.format or ""],
        "pipeline_tag": "text-generation",
        "tags": ["luthier", facts.artifact.kind],
    }
    if results := _results(facts):
        fields["model-index"] = [{"name": facts.model.name, "results": results}]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _results(facts: Facts) -> list[Json]:
    """What hubs show of the report: the figure of the tuned model on rows that it had not learnt."""
    measured = (facts.report or {}).get("contenders", {})
    tuned = [each for each in measured.get("contenders", ()) if each["name"] == "tuned"]
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {
                "type": "validation-file",
                "name": f"{measured['rows']} rows that were not learnt",
            },
            "metrics": [
                {
                    "type": "share",
                    "name": measured["measure"],
                    "value": each["primary"]["value"],
                }
            ],
        }
        for each in tuned
    ]


def _report(facts: Facts) -> str:
    report = facts.report
    if report is None:
        return ""
    rows = {
        each["title"]: "{value:.0%} ({low:.0%} to {high:.0%})".format(**each["primary"])
        for each in report.get("contenders", {}).get("contenders", ())
    }
    told = _section("What tuning did", rows) if rows else "## What tuning did"
    heading, _, table = told.partition("\n")
    return "\n".join([heading, "", report["verdict"]["sentence"], *table.split("\n")]).rstrip()


def _origin(base: BaseModel) -> str:
    kind, _, name = base.source.partition(":")
    # A directory's path is this machine's own affair.
    return name if kind == "huggingface" else base.id


def _base(facts: Facts) -> Json:
    kind, _, name = facts.base.source.partition(":")
    source = kind if kind == "directory" else f"{kind}:{name}"
    return {
        "model": facts.base.id,
        "source": source,
        "revision": facts.base.revision,
        "license": facts.base.license or "not known to the installation that made this",
    }


def _training(facts: Facts) -> Json:
    kind = {"kind": facts.artifact.kind, **facts.artifact.spec}
    if facts.job is None:
        return {"made": "elsewhere, and imported", **kind}
    job = facts.job
    config = (job.train_config or {}).get("config") or {}
    shown = {key: value for key, value in config.items() if key not in ("base_path", "base_model")}
    return {
        "job": job.id,
        "trained on from": job.model,
        "method": job.method,
        **kind,
        "seed": job.seed,
        "trained tokens": job.trained_tokens,
        "hyperparameters": job.hyperparameters,
        "resolved": shown,
    }


def _data(facts: Facts) -> Json:
    names = {"training_file": "training", "validation_file": "validation"}
    return {
        f"SHA-256 of the {names.get(field, field)} file": value
        for field, value in facts.data_sha256.items()
    }


def _section(title: str, values: Json) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in values.items() if value is not None]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *rows]) if rows else ""


def _cell(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{shown}`".replace("|", "\\|").replace("\n", " ")
