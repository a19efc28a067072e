"""What the model lost besides its task: how far it is from its base where nobody asked it to move, and what it cannot do any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from errands.reports import insight, prompts
from errands.reports.cases import Case
from errands.reports.context import ReportContext, SectionSkipped
from errands.reports.parts import Json
from errands.reports.probes import compared, leakage, probe_set
from errands.reports.scoring import figures
from grading import statistics

SHARE = 0.25
"""Of the budget, at least."""
DIVERGENCE = ((0.02, "none"), (0.1, "slight"), (0.5, "marked"))
SEVERE = "severe"
RISE_NOTED, RISE_WARNED = 0.05, 0.2
NUM_PROMPTS = 16
"""Rows at which the base is heard, too, in a full report."""
ONE_PROMPT = 0.95
GUESSED_S = 2.0
"""An answer, where nothing is known of the models' pace."""


class Forgetting:
    name: ClassVar[str] = "forgetting"
    cost: ClassVar[str] = (
        "8,192 tokens drawn from the base (once a base) and read by both models, 40 neutral paragraphs, 140 probes of both (the "
        "base's are kept for its next model), 40 unrelated prompts"
    )

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        room_s = context.room_s(SHARE)
        found = dict(_measured(context, room_s))
        every = _every(context, room_s)
        if every is None:
            why = "the report's budget of time was too small to ask them"
            found |= {"leakage": {"skipped": why}, "probes": {"skipped": why}}
        else:
            found["leakage"] = leakage.ask(context, self.name, every)
            chosen = probe_set.probes()[::every]
            pairs = compared.ask(context, self.name, chosen)
            found["probes"] = compared.told(chosen, pairs, context.seed) | {"every": every}
            if all(tuned.error is not None for _, tuned in pairs.values()):
                error = next(iter(pairs.values()))[1].error
                found["probes"] = {"skipped": f"the tuned model answers none of them: {error}"}
        if all("skipped" in each for each in found.values()):
            raise SectionSkipped(str(found["leakage"]["skipped"]))
        leaks = _leaks(found)
        # A model that is always called with one system prompt has a switch; who leaves it out is no caller of the task's.
        # Measured on examples/support_mails: with its prompt the task alone, without it every question in the task's form.
        key = "caution" if has_one_system_prompt(context.data.training) else "gate"
        return found | {"gate": None, "caution": None, key: leaks, "findings": _findings(found)}


def _measured(context: ReportContext, room_s: float) -> Mapping[str, Json]:
    """By the process that knows models."""
    parts: list[Json] = [{"part": "samples"}, {"part": "neutral"}]
    if context.depth == "full" and context.data.holdout:
        cases = sorted(context.data.holdout, key=lambda case: case.rank)[:NUM_PROMPTS]
        rows = insight.write_rows(context.folder / "prompts.jsonl", cases)
        parts.append({"part": "prompts", "rows": str(rows)})
    try:
        limit_s = room_s / 2 + insight.first_s(context)
        found = insight.measure(context, Forgetting.name, parts, limit_s=limit_s)
    except SectionSkipped as skipped:
        return {name: {"skipped": str(skipped)} for name in ("divergence", "neutral")}
    told = {"divergence": _divergence(found["samples"], context.seed), "neutral": found["neutral"]}
    if "rise" in told["neutral"]:
        told["neutral"] = _neutral(told["neutral"], context.seed)
    if "prompts" in found:
        told["divergence_on_rows"] = found["prompts"]
    return told


def _divergence(found: Json, seed: int) -> Json:
    if "skipped" in found:
        return found
    means = [each["sum"] / each["num_tokens"] for each in found["by_sample"] if each["num_tokens"]]
    interval = statistics.bootstrap(means, [str(i) for i in range(len(means))], seed=seed)
    told = {name: value for name, value in found.items() if name != "by_sample"}
    return told | {
        "interval": {**figures(interval), "n": len(means), "method": "bootstrap of samples"},
        "read": next((name for limit, name in DIVERGENCE if found["mean"] < limit), SEVERE),
    }


def _neutral(found: Json, seed: int) -> Json:
    own = [each for each in found["texts"] if each["register"] != "drift"]
    rises = [each["tuned_nll"] - each["base_nll"] for each in own]
    interval = statistics.bootstrap(rises, [str(i) for i in range(len(rises))], seed=seed)
    rise = found["rise"]
    return found | {
        "interval": {**figures(interval), "n": len(rises), "method": "bootstrap of texts"},
        "read": "warn" if rise > RISE_WARNED else "note" if rise > RISE_NOTED else "none",
    }


def _every(context: ReportContext, room_s: float) -> int | None:
    """Each so-manieth probe is asked; None: there is not even time for a quarter."""
    if context.depth == "full":
        return 1
    measured = context.found.get("contenders", {})
    paces = [
        each["seconds_p50"] for each in measured.get("contenders", ()) if each.get("seconds_p50")
    ]
    pace_s = max(paces, default=GUESSED_S) / context.asking.concurrency
    chosen = probe_set.probes()
    number = 2 * len(chosen) - compared.num_known(context, chosen) + len(probe_set.unrelated())
    return next((every for every in (1, 2, 4) if number * pace_s / every <= room_s), None)


def has_one_system_prompt(training: Sequence[Case]) -> bool:
    """Whether nearly all rows begin with the same system message; the unrelated questions are asked without it."""
    own = Counter(prompts.system_prompt([case]) for case in training)
    own.pop("", None)
    return bool(own) and max(own.values()) >= ONE_PROMPT * len(training)


def _leaks(found: Mapping[str, Json]) -> str | None:
    """What the verdict says of a model that answers everything in the task's form."""
    leaking = found["leakage"]
    if leaking.get("read") != "gate":
        return None
    share = 100 * leaking["share"]["value"]
    return f"answers {share:.0f} % of {leaking['n']} unrelated questions {leaking['form']}"


def _findings(found: Mapping[str, Json]) -> list[str]:
    told = []
    divergence, neutral = found["divergence"], found["neutral"]
    if "read" in divergence:
        told.append(
            f"On what the base itself says the model is {divergence['mean']:.3f} nats a token away from it "
            f"({divergence['read']})."
        )
    if neutral.get("read") in ("note", "warn"):
        told.append(
            f"Texts that no row is about became harder by {neutral['rise']:.2f} nats a token."
        )
    leaking, probes = found["leakage"], found["probes"]
    if leaking.get("count"):
        told.append(
            f"{leaking['count']} of {leaking['n']} unrelated questions were answered {leaking['form']}."
        )
    for each in probes.get("families", ()):
        if each["p_holm"] < 0.05:
            told.append(
                f"Probes of {each['family'].replace('_', '-')}: {each['base_right']} right became {each['tuned_right']} "
                f"of {each['n']}."
            )
    for name, each in probes.get("refusals", {}).items():
        answered, refused = len(each["newly_answered"]), len(each["newly_refused"])
        what = "harmful" if name == "refusals" else "harmless"
        if answered or refused:
            told.append(
                f"Of {each['n']} {what} requests {answered} that the base refused are answered now, and {refused} that "
                "it answered are refused."
            )
    return told
