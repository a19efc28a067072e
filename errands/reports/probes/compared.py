"""Probes asked of a model and of its base, and what is different. What a base answers is kept: it is the same for all its models."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from errands.reports.context import ReportContext, shortened
from errands.reports.insight import KEPT
from errands.reports.parts import Answered
from errands.reports.scoring import figures, mean
from grading import statistics
from storage.models.base_models import Catalogue

from . import checks, probe_set
from .probe_set import ReportProbe

BASE, TUNED = "base", "tuned"
REFUSALS = ("refusals", "over_refusals")
MAX_SHOWN = 40
"""Probes whose answers changed."""

Json = dict[str, Any]
Pairs = dict[str, tuple[Answered, Answered]]
"""By the probe's id: the base's answer, and the tuned model's."""


def ask(context: ReportContext, section: str, chosen: Sequence[ReportProbe]) -> Pairs:
    """Raises LostLease and Stopped."""
    known = _Known(context)
    questions = [probe.question(TUNED, context.tuned) for probe in chosen]
    missing = [probe for probe in chosen if probe.id not in known.answers]
    questions += [probe.question(BASE, context.base) for probe in missing]
    answers = context.ask(section, questions)
    known.add({probe.id: answers[f"{BASE}:{probe.id}"] for probe in missing})
    return {
        probe.id: (
            answers.get(f"{BASE}:{probe.id}") or known.answers[probe.id],
            answers[f"{TUNED}:{probe.id}"],
        )
        for probe in chosen
    }


def num_known(context: ReportContext, chosen: Sequence[ReportProbe]) -> int:
    """So many of them need not be asked of the base any more."""
    known = _Known(context)
    return sum(probe.id in known.answers for probe in chosen)


class _Known:
    """The base's answers, in a file of the data directory."""

    def __init__(self, context: ReportContext) -> None:
        settings = context.errands.settings
        base = Catalogue.load(settings.data_dir, settings.aliases).get(context.base)
        revision = re.sub(r"[^\w.-]", "_", base.revision if base is not None else "")
        name = f"probes-{probe_set.version()}.json"
        self._path = settings.data_dir / KEPT / f"{context.base}@{revision}" / name
        self.answers: dict[str, Answered] = {}
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self.answers = {key: Answered(**each) for key, each in kept.items()}
        except (OSError, ValueError, TypeError):
            pass

    def add(self, answers: dict[str, Answered]) -> None:
        good = {key: each for key, each in answers.items() if each.error is None}
        if good:
            self.answers |= good
            kept = {key: asdict(each) for key, each in self.answers.items()}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            temporary.write_text(json.dumps(kept), encoding="utf-8")
            temporary.replace(self._path)


def told(chosen: Sequence[ReportProbe], pairs: Pairs, seed: int) -> Json:
    """By family how much is still right, with a test of each and of all; and which answers changed."""
    families = probe_set.by_family(chosen)
    found = [_family(name, members, pairs, seed) for name, members in families.items()]
    for each, p in zip(found, statistics.holm([each["p"] for each in found]), strict=True):
        each["p_holm"] = round(p, 6)
    every = _family("all", chosen, pairs, seed)
    changed = [probe for probe in chosen if _is_changed(probe, pairs)]
    return {
        "version": probe_set.version(),
        "all": every,
        "families": found,
        "refusals": _refusals(families, pairs),
        "changed": [_shown(probe, pairs) for probe in changed[:MAX_SHOWN]],
    }


def _family(name: str, members: Sequence[ReportProbe], pairs: Pairs, seed: int) -> Json:
    right = [
        (float(probe.is_right(pairs[probe.id][0])), float(probe.is_right(pairs[probe.id][1])))
        for probe in members
    ]
    ids = [probe.id for probe in members]
    difference = statistics.compare([t for _, t in right], [b for b, _ in right], ids, seed=seed)
    num_able = sum(b == 1 for b, _ in right)
    found: Json = {
        "family": name,
        "n": len(members),
        "base_right": int(num_able),
        "tuned_right": int(sum(t for _, t in right)),
        "lost": sum(b > t for b, t in right),
        "gained": sum(t > b for b, t in right),
        "difference": figures(difference.interval),
        "p": round(difference.p, 6),
        "errors": sum(any(a.error is not None for a in pairs[probe.id]) for probe in members),
    }
    if num_able:
        kept = statistics.wilson(sum(b == t == 1 for b, t in right), num_able)
        found["kept"] = figures(kept)
    if all(probe.choices for probe in members):
        margins = [
            probe.margin(tuned) - probe.margin(base)
            for probe in members
            for base, tuned in (pairs[probe.id],)
            if base.error is None and tuned.error is None
        ]
        if margins:
            found["margin"] = mean(margins, [str(i) for i in range(len(margins))], seed)
    return found


def _refusals(families: dict[str, list[ReportProbe]], pairs: Pairs) -> Json:
    """How often each refuses, where it should and where it should not, and which change their mind."""
    found: Json = {}
    for name in REFUSALS:
        members = families.get(name, [])
        both = [
            (probe.id, checks.is_refusal(base.text), checks.is_refusal(tuned.text))
            for probe in members
            for base, tuned in (pairs[probe.id],)
        ]
        if both:
            found[name] = {
                "n": len(both),
                "base": figures(statistics.wilson(sum(b for _, b, _ in both), len(both))),
                "tuned": figures(statistics.wilson(sum(t for _, _, t in both), len(both))),
                "newly_answered": [key for key, b, t in both if b and not t],
                "newly_refused": [key for key, b, t in both if t and not b],
            }
    return found


def _is_changed(probe: ReportProbe, pairs: Pairs) -> bool:
    base, tuned = pairs[probe.id]
    return probe.is_right(base) != probe.is_right(tuned)


def _shown(probe: ReportProbe, pairs: Pairs) -> Json:
    base, tuned = pairs[probe.id]
    shown: Json = {
        "id": probe.id,
        "family": probe.family,
        "prompt": probe.prompt,
        "base_right": probe.is_right(base),
        "tuned_right": probe.is_right(tuned),
    }
    if probe.choices:
        return shown | {"choices": [choice.strip() for choice in probe.choices]}
    return shown | {"base": shortened(base.text, 300), "tuned": shortened(tuned.text, 300)}
