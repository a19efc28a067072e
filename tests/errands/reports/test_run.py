"""Reports from end to end, and what becomes of them when something dies or is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import update

from errands.reports import plan, run
from errands.reports.sections import cost
from foundation.crash_points import ENV
from storage import leases
from storage.files import files
from storage.models import models
from storage.reports import reports
from storage.reports.reports import ReportRow
from tests.errands.reports import one_report
from tests.errands.reports.report_scene import ReportScene, knows, row
from tests.factories import Json, chat_row

TRAINING = [row(n) for n in range(24)]
FEW = TRAINING[:9]
"""Too few to choose prompts by: the base is asked as the rows ask, and that is all."""
HOLDOUT = [row(n) for n in range(104, 112)]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "NUM_DEV", {"auto": 1, "full": 1})
    monkeypatch.setattr(cost, "NUM_ALONE", {"auto": 1, "full": 1})


def test_a_report_says_what_tuning_did(scene: ReportScene) -> None:
    scene.models.script = knows(0.11)
    job = scene.job(TRAINING, HOLDOUT)

    report = scene.run(job)
    found = scene.report(job)

    assert report.verdict == found["verdict"]["code"] == "helped", found["verdict"]
    assert scene.told(job)[-1] == f"Report: helped: {report.sentence}"
    by_name = {each["name"]: each for each in found["contenders"]["contenders"]}
    assert by_name["tuned"]["primary"]["value"] == 7 / 8
    assert by_name["zero_shot"]["primary"]["value"] == 0
    assert {"constant", "copy", "instructed", "grounded"} < by_name.keys()
    assert found["changed"]["counts"]["lost"] == 0
    assert [
        lost["line"] for lost in found["contenders"]["answers"] if not lost["scores"]["tuned"]
    ] == [8]
    assert found["data"]["task"]["type"] == "json"
    assert found["cost"]["requests"] == 1
    assert scene.models.most_at_once <= 4
    # What was kept on the way is of no more use.
    assert list(scene.api.blobs.list(f"reports/{report.id}/")) != []


@pytest.mark.parametrize(
    "point",
    [
        point if point == "after_part_commit" else pytest.param(point, marks=pytest.mark.slow)
        for point in run.CRASH_POINTS
    ],
)
def test_killed_anywhere_it_goes_on_behind_what_was_kept(scene: ReportScene, point: str) -> None:
    scene.models.script = knows(0.11)
    job = scene.job(FEW, HOLDOUT)
    report_id = scene.row(job).id
    # One at a time, so that what was under way and lost is one answer.
    settings = scene.settings.replace(report_concurrency=1)
    for _ in range(2):
        process = one_report.start(settings, report_id, **{ENV: point})
        process.join()
        assert process.exitcode == 137 or scene.row(job).status == "succeeded"
    if point == "after_part_commit":
        assert scene.row(job).num_answers == 1

    errands = scene.errands()
    with errands.folder.dead() as names, scene.api.sessions.begin() as session:
        leases.expire(session, ReportRow, names)
    scene.run(job, errands)

    assert scene.report(job)["verdict"]["code"] == "helped"
    again = [asked for asked, times in scene.models.asked.items() if times > 2]
    assert len(again) <= (2 if point == "before_part_commit" else 0), again
    assert sum(said.startswith("Report: ") for said in scene.told(job)) == 1


def test_a_report_that_is_deleted_while_it_is_made_is_let_go_of(scene: ReportScene) -> None:
    job = scene.job(FEW, HOLDOUT)

    def delete(_model: str, _messages: object) -> str:
        with scene.api.sessions.begin() as session:
            reports.remove(session, job.project_id, job.id)
        return "?"

    scene.models.script = delete
    report_id = scene.row(job).id
    run.run(scene.errands(), report_id)

    with scene.api.sessions() as session:
        assert reports.find(session, job.project_id, job.id) is None
    assert not any(said.startswith("Report: ") for said in scene.told(job))


def test_without_rows_that_were_not_learnt_it_says_so_and_asks_nobody(scene: ReportScene) -> None:
    job = scene.job(FEW, None)

    assert scene.run(job).verdict == "too_few"
    assert "had no validation file" in scene.report(job)["verdict"]["sentence"]
    assert not scene.models.asked


def test_rows_that_were_learnt_are_left_out(scene: ReportScene) -> None:
    scene.models.script = knows(0.11)
    job = scene.job(FEW, [*HOLDOUT[:6], *FEW[:2]])

    scene.run(job)

    found = scene.report(job)
    assert found["contenders"]["rows"] == 6
    assert any("2 rows of the validation file" in note for note in found["data"]["notes"])


def test_turns_of_a_conversation_are_measured_each_behind_what_the_row_has(
    scene: ReportScene,
) -> None:
    scene.models.script = knows(1.0)
    both = [
        {"messages": [*row(n)["messages"], *row(n + 50)["messages"][1:]]} for n in range(100, 106)
    ]
    job = scene.job(FEW, both)

    scene.run(job)

    found = scene.report(job)
    assert (found["contenders"]["rows"], found["contenders"]["cases"]) == (6, 12)
    assert found["contenders"]["clusters"] == 6
    assert found["changed"]["difference"]["method"] == "bootstrap, sign flips"
    assert any("turn by turn" in note for note in found["data"]["notes"])
    said = [asked for asked in scene.models.asked if "It155" in asked and "tiny-random" in asked]
    assert all(json.loads(str(row(105)["messages"][-1]["content"]))["colour"] in s for s in said)


def test_a_holdout_of_three_rows_tells_nothing(scene: ReportScene) -> None:
    scene.models.script = knows(0.11)
    job = scene.job(FEW, HOLDOUT[:3])

    assert scene.run(job).verdict == "too_few"
    assert (
        "Too few rows to tell: 3 show only differences" in scene.report(job)["verdict"]["sentence"]
    )


def test_without_its_training_file_a_model_is_compared_with_its_base(scene: ReportScene) -> None:
    scene.models.script = knows(0.11)
    job = scene.job(FEW, HOLDOUT)
    with scene.api.sessions.begin() as session:
        files.remove(session, job.project_id, job.training_file)

    scene.run(job)

    found = scene.report(job)
    assert found["verdict"]["code"] == "helped"
    assert [each["name"] for each in found["contenders"]["contenders"]] == ["zero_shot", "tuned"]
    assert "is gone" in found["data"]["notes"][0]


def test_without_its_validation_file_there_is_nothing_to_measure_on(scene: ReportScene) -> None:
    job = scene.job(FEW, HOLDOUT)
    assert job.validation_file is not None
    with scene.api.sessions.begin() as session:
        files.remove(session, job.project_id, job.validation_file)

    assert scene.run(job).verdict == "too_few"
    assert "is gone" in scene.report(job)["verdict"]["sentence"]


def test_a_model_that_was_deleted_has_no_report(scene: ReportScene) -> None:
    job = scene.job(FEW, HOLDOUT)
    with scene.api.sessions.begin() as session:
        models.remove(session, job.project_id, job.fine_tuned_model or "")

    report = scene.run(job)

    assert report.status == "failed"
    assert report.error is not None
    assert report.error["code"] == "model_not_found"
    assert "There is no report" in scene.told(job)[-1]


def test_a_base_that_nobody_serves_leaves_what_needs_no_model(scene: ReportScene) -> None:
    job = scene.job(FEW, HOLDOUT)
    with scene.api.sessions.begin() as session:
        session.execute(
            update(models.ModelRow)
            .where(models.ModelRow.name == job.fine_tuned_model)
            .values(base_model="gone")
        )
        session.execute(update(type(job)).where(type(job).id == job.id).values(base_model="gone"))

    scene.run(job)

    found = scene.report(job)
    assert found["verdict"]["code"] == "too_few"
    assert "does not answer" in found["contenders"]["skipped"]


@pytest.mark.parametrize("answer", ["", "x" * 50_000, "<script>alert(1)</script>"])
def test_what_models_write_may_be_anything(scene: ReportScene, answer: str) -> None:
    scene.models.script = lambda _model, _messages: answer
    job = scene.job(FEW, HOLDOUT[:6])

    scene.run(job)

    found = scene.report(job)
    assert found["verdict"]["code"] in ("too_few", "worse")
    assert all(len(each["answers"]["tuned"]) < 2100 for each in found["contenders"]["answers"])


def test_a_judge_that_answers_nonsense_is_not_believed(scene: ReportScene) -> None:
    good = knows(0.11)
    scene.models.script = lambda model, messages: (
        "Hm." if "Judge" in str(messages) else good(model, messages)
    )
    grader: Json = {
        "type": "score_model",
        "name": "judge",
        "model": "tiny-random",
        "input": [{"role": "user", "content": "Judge {{sample.output_text}}"}],
    }
    job = scene.job(FEW, HOLDOUT[:6], asked={"grader": grader})

    scene.run(job)

    found = scene.report(job)["contenders"]
    assert found["measure"] == "all fields equal"
    assert "could not grade" in found["notes"][0]


def test_a_grader_of_the_users_own_decides(scene: ReportScene) -> None:
    scene.models.script = knows(0.11)
    grader: Json = {
        "type": "string_check",
        "name": "says black",
        "input": "{{sample.output_json.colour}}",
        "reference": "black",
        "operation": "eq",
    }
    job = scene.job(FEW, HOLDOUT, asked={"grader": grader})

    assert scene.run(job).verdict == "worse"
    assert scene.report(job)["contenders"]["measure"] == "the grader 'says black'"


def test_a_model_that_goes_on_from_another_is_compared_with_that_one_too(
    scene: ReportScene,
) -> None:
    scene.models.script = knows(0.11)
    earlier = scene.api.tuned_model(scene.tenant)
    job = scene.job(FEW, HOLDOUT[:6])
    with scene.api.sessions.begin() as session:
        session.execute(update(type(job)).where(type(job).id == job.id).values(model=earlier.name))

    scene.run(job)

    figures = {
        each["name"]: each["primary"]["value"]
        for each in scene.report(job)["contenders"]["contenders"]
    }
    assert figures == {"zero_shot": 0, "before": 1, "tuned": 1}


@pytest.mark.parametrize("method", ["dpo", "unsupervised", "classification"])
def test_what_has_no_right_answer_is_not_measured(scene: ReportScene, method: str) -> None:
    job = scene.job(FEW, HOLDOUT, method=method)

    assert scene.run(job).verdict == "too_few"
    assert not scene.models.asked


def test_free_answers_are_measured_by_how_likely_they_are(
    scene: ReportScene, base_path: Path
) -> None:
    scene.settings = scene.settings.replace(bases_dir=base_path.parent)
    rows = [
        chat_row(f"Tell me of {n}", " ".join(f"w{n * i % 97}" for i in range(30)))
        for n in range(17)
    ]
    job = scene.job(rows[:12], rows[12:])

    report = scene.run(job)

    found = scene.report(job)
    figures = {each["name"]: each["primary"]["value"] for each in found["contenders"]["contenders"]}
    assert found["data"]["task"]["type"] == "chat"
    assert found["contenders"]["measure"] == "likelihood of the wanted answer, a token"
    assert figures["tuned"] == pytest.approx(0.5)
    assert figures["zero_shot"] == pytest.approx(0.25)
    assert "no model" in found["contenders"]["left_out"]["copy"]
    assert report.verdict == "helped"
