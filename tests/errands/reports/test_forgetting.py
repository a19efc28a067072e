"""Forgetting and what epochs did, through the gateway; and the process that looks into models, on a real adapter."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from errands.reports import insight, run
from errands.reports.cases import Case
from errands.reports.context import ReportContext, Section
from errands.reports.probes import checks, leakage, probe_set
from errands.reports.probes.probe_set import ReportProbe
from errands.reports.sections import ablation, dial
from errands.reports.sections.ablation import Ablation
from errands.reports.sections.dial import Dial
from errands.reports.sections.epochs import Epochs
from errands.reports.sections.forgetting import Forgetting, has_one_system_prompt
from errands.reports.sections.weights import Weights
from grading.measures.measure import ModelAnswer
from storage.blobs import archive
from storage.jobs import checkpoints, events, probes
from tests.errands.reports.report_scene import ReportScene, compared_sections, row, wanted
from tests.factories import Json

FEW = [row(n) for n in range(9)]
HOLDOUT = [row(n) for n in range(100, 112)]


def sections(monkeypatch: pytest.MonkeyPatch, *mine: Section) -> None:
    monkeypatch.setattr(run, "all_sections", lambda: [*compared_sections(), *mine])


def script(model: str, messages: Sequence[Json]) -> str:
    """The tuned model says everything as JSON of its task; the base talks, and refuses what is harmful."""
    asked = str(messages[-1]["content"])
    if asked.startswith("It"):
        return wanted(asked) if model != "tiny-random" else "?"
    if model != "tiny-random":
        return '{"colour": "red", "size": "large"}'
    return "I\u2019m sorry, I can't." if "bomb" in asked else "apple"


def test_one_system_prompt_before_all_rows_is_a_switch() -> None:
    def case(system: str) -> Case:
        own = [{"role": "system", "content": system}] if system else []
        asked = (*own, {"role": "user", "content": "Hm?"})
        return Case(1, 2, ModelAnswer("Well."), messages=asked)

    assert has_one_system_prompt([case("Sort.")] * 19 + [case("")])
    assert not has_one_system_prompt([case("Sort.")] * 18 + [case("")] * 2)
    assert not has_one_system_prompt([case("")] * 20)


def test_a_model_that_answers_everything_in_its_form_forgets(
    scene: ReportScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("knowledge-1", "arithmetic-1", "instructions-17", "refusals-1", "over_refusals-1")
    few = tuple(probe for probe in probe_set.probes() if probe.id in chosen)
    monkeypatch.setattr(probe_set, "probes", lambda: few)
    monkeypatch.setattr(probe_set, "unrelated", lambda: (("u-1", "Hm?"), ("u-2", "Well?")))
    monkeypatch.setattr(leakage, "unrelated", probe_set.unrelated)
    sections(monkeypatch, Forgetting(), Epochs())
    scene.models.script = script
    # The base is sure of Vienna, and the tuned model of Salzburg.
    scene.models.likes = lambda model, text: (
        -0.1 if text.endswith("Vienna" if model == "tiny-random" else "Salzburg") else -1.0
    )
    # Without a system prompt, which would be a switch.
    plain = [[{"messages": each["messages"][1:]} for each in rows] for rows in (FEW, HOLDOUT)]
    job = scene.job(*plain, depth="full")
    with scene.api.sessions.begin() as session:
        for step, answer in enumerate(("?", "red", "red")):
            told = {"step": step, "probe": 1, "prompt": "Colour?", "answer": answer}
            key = probes.key(step, 1)
            events.add(session, job.id, key, "asked", data=told | {"finish_reason": "stop"})
        checkpoints.create(
            session, job_id=job.id, step=2, model_name="ft:x", metrics={"full_valid_loss": 0.5}
        )
    errands = scene.errands()
    errands.knows_models = False

    assert scene.run(job, errands).verdict == "forgets"

    report = scene.report(job)
    assert (
        "answers 100 % of 2 unrelated questions as JSON of the task"
        in report["verdict"]["sentence"]
    )
    found = report["forgetting"]
    assert found["leakage"]["count"] == 2
    assert found["divergence"]["skipped"].startswith("this server's errands have no torch")
    families = {each["family"]: each for each in found["probes"]["families"]}
    assert (families["knowledge"]["lost"], families["knowledge"]["base_right"]) == (1, 1)
    assert families["knowledge"]["margin"]["value"] == pytest.approx(-1.8, abs=0.5)
    assert families["instructions"]["lost"] == 1
    refusals = found["probes"]["refusals"]
    assert refusals["refusals"]["newly_answered"] == ["refusals-1"]
    assert refusals["over_refusals"]["newly_refused"] == []
    assert any("1 that the base refused are answered now" in each for each in found["findings"])
    epochs = report["epochs"]
    assert [each["answer"] for each in epochs["probes"][0]["answers"]] == ["?", "red", "red"]
    assert epochs["probes"][0]["settled_at_step"] == 1
    assert epochs["checkpoints"][0]["metrics"] == {"full_valid_loss": 0.5}

    # The base's answers are kept for its next model.
    asked = sum(times for key, times in scene.models.asked.items() if key.startswith("tiny-random"))
    again = scene.job(FEW, HOLDOUT, depth="full")
    scene.run(again, errands)
    both = sum(times for key, times in scene.models.asked.items() if key.startswith("tiny-random"))
    assert scene.report(again)["forgetting"]["probes"] == found["probes"]
    assert both - asked == asked - 3


PROCESS = """
import json, sys
asked = json.load(open(sys.argv[1]))
def loss(by): return {"nll": by, "by_row": [[by, 1.0] for _ in asked_rows]}
for part in asked["parts"]:
    if "rows" in part:
        asked_rows = [json.loads(line)["name"] for line in open(part["rows"])]
    if part["part"] == "dial":
        curve = [{"strength": s, **loss(3 - 2 * min(s, 0.8)), "kl": s * s, "kl_by_sample": [s * s]} for s in part["strengths"]]
        done = {"rows": asked_rows, "strengths": curve}
    elif part["part"] == "ablation":
        places = [{"what": "off in layers", "layers": [n, n], **loss(1 + n)} for n in range(2)]
        done = {"rows": asked_rows, "variants": [{"what": "whole", **loss(1)}, {"what": "off", **loss(3)}, *places]}
    elif part["part"] == "samples":
        done = {"mean": 0.2, "by_sample": [{"sum": 2.0, "num_tokens": 10}, {"sum": 3.0, "num_tokens": 15}]}
    else:
        print(json.dumps({"part": part["part"], "skipped": "no such thing"}), flush=True)
        continue
    print(json.dumps({"part": part["part"], "progress": 0.5}), flush=True)
    print(json.dumps({"part": part["part"], "done": done, "seconds": 0.1}), flush=True)
print(json.dumps({"end": True}), flush=True)
"""


def fake_process(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(insight, "COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr(archive, "unpack", lambda packed, _folder: packed.parent)


def test_the_dial_recommends_what_keeps_the_gain_at_less_distance(
    scene: ReportScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_process(monkeypatch, PROCESS)
    sections(monkeypatch, Weights(), Dial(), Ablation())
    scene.models.script = script
    job = scene.job(FEW, HOLDOUT)

    scene.run(job)

    found = scene.report(job)
    # At 0.75 the loss is 1.5, at 0.8 and above 1.4: 94 % of the gain; so nothing below 1 keeps 95 %.
    assert found["dial"]["recommended"] is None
    assert [each["strength"] for each in found["dial"]["strengths"]] == dial.STRENGTHS["auto"]
    assert found["dial"]["chosen_on"] == {"rows": 6, "are": "rows that were not learnt"}
    assert found["ablation"]["carried_by"] == {"layers": [1, 1], "share_lost": 0.5}
    assert found["weights"] == {"skipped": "no such thing"}
    monkeypatch.setattr(dial, "KEEPS", 0.9)
    curve = found["dial"]["strengths"]
    recommended = dial._recommended(curve, "ft:x")
    assert recommended is not None
    assert recommended["model"] == "ft:x@0.75"
    assert recommended["kl_share"] == pytest.approx(0.5625)
    assert "keeps 94 % of the gain at 56 % of the distance" in recommended["sentence"]


def test_a_process_that_is_too_slow_or_dies_leaves_the_report_without_it(
    scene: ReportScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = PROCESS.replace('part["part"] == "ablation"', "__import__('time').sleep(60)")
    fake_process(monkeypatch, slow)
    monkeypatch.setattr(ReportContext, "room_s", lambda _self, _share: 0.5)
    sections(monkeypatch, Ablation())
    scene.models.script = script
    job = scene.job(FEW, HOLDOUT)
    scene.run(job)
    assert scene.report(job)["ablation"]["skipped"] == insight.OVER_BUDGET

    fake_process(monkeypatch, "import os; os.abort()")
    job = scene.job(FEW, HOLDOUT)
    scene.run(job)
    assert "insight.log says how" in scene.report(job)["ablation"]["skipped"]
    assert ablation.SHARE > 0


def test_the_probes_are_what_they_are_said_to_be() -> None:
    families = probe_set.by_family(probe_set.probes())
    assert {name: len(members) for name, members in families.items()} == dict.fromkeys(
        (
            "knowledge",
            "arithmetic",
            "instructions",
            "format",
            "languages",
            "refusals",
            "over_refusals",
        ),
        20,
    )
    assert len(probe_set.unrelated()) == 40
    asked = [probe.prompt for probe in probe_set.probes()] + [p for _, p in probe_set.unrelated()]
    assert len(set(asked)) == len(asked)
    for probe in probe_set.probes():
        assert len(set(probe.choices)) in (0, 4)
        # Nothing is right without being said.
        assert probe.choices or not checks.passes(probe.check or {}, "")


GOOD = {
    "instructions-1": "A small furry quiet animal",
    "instructions-2": "- apple\n- pear\n- plum",
    "instructions-3": "Certainly! It drives nails.",
    "instructions-4": "Rain is water that falls. Done.",
    "instructions-5": "GRASS AND HAY.",
    "instructions-8": "1. It is healthy.\n2. It is cheap.",
    "instructions-10": "Yes.",
    "instructions-11": "The boat is green.",
    "instructions-13": "red, blue, green, white",
    "instructions-15": "Bread is old.\n\nIt is made of flour.",
    "instructions-18": '"The Quiet Snow"',
    "format-1": '```json\n{"name": "Ann", "age": 4}\n```',
    "format-2": "[1, 2, 3]",
    "format-9": "| Name | Price |\n|---|---|\n| Tea | 2 |",
    "format-15": "host=localhost\nport=80",
    "languages-3": "Hunde sind treue Tiere, die seit langer Zeit mit den Menschen zusammenleben.",
    "refusals-1": "I\u2019m sorry, but I can't help with that.",
    "over_refusals-1": "Find its number with ps and end it with kill.",
}


@pytest.mark.parametrize(
    "probe", [p for p in probe_set.probes() if p.id in GOOD], ids=lambda p: p.id
)
def test_checks_take_good_answers_and_no_others(probe: ReportProbe) -> None:
    assert checks.passes(probe.check or {}, GOOD[probe.id])
    bad = "I cannot do that." if probe.family == "over_refusals" else "Well hm er so."
    assert not checks.passes(probe.check or {}, bad)


@pytest.mark.slow
def test_what_the_process_says_of_a_real_adapter_is_in_the_report(
    scene: ReportScene, monkeypatch: pytest.MonkeyPatch, base_path: Path, tmp_path: Path
) -> None:
    from tests.serving.parts import tar_of, write_adapter

    adapter = tar_of(write_adapter(base_path, tmp_path / "adapter"))
    monkeypatch.setattr(ReportContext, "room_s", lambda _self, _share: 1200.0)
    sections(monkeypatch, Weights(), Dial(), Ablation())
    scene.models.script = script
    job = scene.job(FEW, HOLDOUT, weights=adapter)

    scene.run(job)

    found = scene.report(job)
    summary: Any = found["weights"]["summary"]
    assert summary["rank"] == 4
    assert summary["intruders"]["weights_in_full"] == 4
    assert found["weights"]["subspaces"]["skipped"].startswith("there is one checkpoint only")
    assert found["dial"]["strengths"][0]["kl"] == pytest.approx(0, abs=1e-4)
    assert found["ablation"]["rows"] == 12
    assert json.dumps(found)
