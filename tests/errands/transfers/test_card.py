"""The model card, as hubs read it."""

from __future__ import annotations

from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub.repocard_data import ModelCardData

from errands.transfers import card
from errands.transfers.card import Facts
from storage.models.artifacts import ArtifactRow
from storage.models.base_models import BaseModel
from storage.models.models import ModelRow
from storage.models.transfers import TransferRow

FIGURE = {"value": 0.79, "low": 0.68, "high": 0.87}
REPORT: dict[str, Any] = {
    "verdict": {"code": "helped", "sentence": "Fine-tuning helped: +54 (41 to 67)."},
    "contenders": {
        "measure": "all fields equal",
        "rows": 72,
        "contenders": [{"name": "tuned", "title": "the tuned model", "primary": FIGURE}],
    },
}


def facts(report: dict[str, Any] | None) -> Facts:
    base = BaseModel(id="tiny-random", source="builtin:tiny-random", license="apache-2.0")
    artifact = ArtifactRow(id="adapter-1", kind="lora", spec={"rank": 8})
    transfer = TransferRow(id="export-1", format="peft")
    return Facts(transfer, ModelRow(name="ft:x"), artifact, base, None, None, {}, report)


def test_a_card_tells_the_verdict_and_the_figure_as_hubs_read_it() -> None:
    text = card.text(facts(REPORT))
    head = yaml.safe_load(text.split("---")[1])

    read: Any = ModelCardData(**head)
    found = read.to_dict()["model-index"][0]["results"][0]
    assert found["metrics"] == [{"type": "share", "name": "all fields equal", "value": 0.79}]
    assert "## What tuning did\n\nFine-tuning helped: +54 (41 to 67).\n\n| | |" in text
    assert "| the tuned model | `79% (68% to 87%)` |" in text


def test_a_card_without_a_report_has_nothing_of_it() -> None:
    text = card.text(facts(None))

    assert "model-index" not in text
    assert "What tuning did" not in text
