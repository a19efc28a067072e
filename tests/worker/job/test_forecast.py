"""Each job has a forecast before it trains, and its outcome afterwards."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from storage.forecasts import forecasts, hosts, making
from storage.forecasts.forecasts import ForecastRow
from storage.forecasts.hosts import Host, WorkerRow
from storage.jobs import jobs
from tests.factories import colour_rows
from tests.worker.scene import FAKE, Scene, script
from training.messages import StepMetrics
from worker.job.progress import MEASURED_STEPS, Pace
from worker.job.run import run
from worker.presence import Presence
from worker.trainer_memory import TrainerMemory


def forecast_of(scene: Scene, job_id: str) -> ForecastRow:
    with scene.sessions() as session:
        row = forecasts.of_job(session, job_id)
    assert row is not None
    return row


def test_a_job_has_its_forecast_and_then_its_outcome(finished: Scene) -> None:
    job, row = finished.row(finished.job_id), forecast_of(finished, finished.job_id)
    assert row.result is not None
    # Ten rows three times, two at a time. The trainer of these tests counts seven tokens a row.
    assert job.trained_tokens == row.actual_tokens == 210
    assert row.num_steps == row.actual_steps == 15
    tokens = row.result["tokens"]
    assert tokens["trained"] == row.num_tokens == 3 * tokens["per_epoch"]
    assert 0 < tokens["learnt"] < tokens["trained"]
    assert row.result["examples"]["rows"] == 10
    assert (row.kind, row.method, row.base_model) == ("lora", "supervised", "tiny-random")
    assert row.host_type == Host.here().type
    # Three validations of ten rows, and one of eight after the tenth step, a third of it each.
    in_epoch = tokens["per_epoch"]
    assert row.work_tokens == pytest.approx(3 * in_epoch + (3 + 0.8) * in_epoch / 3)
    quantiles = [
        row.seconds_p05,
        row.seconds_p10,
        row.seconds_p50,
        row.seconds_p90,
        row.seconds_p95,
    ]
    assert quantiles == sorted(quantiles, key=lambda value: value or 0)
    assert (row.outcome, row.is_counted, row.num_starts) == ("succeeded", True, 1)
    assert row.actual_seconds is not None
    assert 0 < row.actual_seconds < 60
    assert row.peak_memory_bytes is not None
    assert job.forecast is not None
    assert job.forecast["id"] == row.id
    assert job.forecast["steps"] == 15
    (event,) = [e for e in finished.events(finished.job_id) if e.key == "forecast"]
    said = f"Forecast: {tokens['trained']:,} tokens ({tokens['learnt']:,} of them learnt) in 15 steps, about "
    assert event.message.startswith(said)
    assert event.data == {"forecast": row.result}


def test_a_forecast_that_cannot_be_made_is_no_reason_for_a_job_to_fail(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(making, "make", broken)
    job_id = scene.job()
    run(scene.worker())
    job = scene.row(job_id)
    assert (job.status, job.forecast) == ("succeeded", None)
    with scene.sessions() as session:
        assert forecasts.of_job(session, job_id) is None


def test_what_did_not_run_through_is_told_and_does_not_count(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The trainer dies on the way, and another one goes on.
    monkeypatch.setenv(FAKE, script(die_at=[7]))
    broken = scene.job()
    worker = scene.worker()
    run(worker)
    scene.end_pauses()
    monkeypatch.setenv(FAKE, script())
    while scene.row(broken).status not in jobs.TERMINAL:
        run(worker)
    cancelled = scene.job()
    with scene.sessions.begin() as session:
        jobs.cancel(session, scene.project_id, cancelled)
    assert scene.row(broken).status == "succeeded"
    row = forecast_of(scene, broken)
    assert (row.outcome, row.is_counted) == ("succeeded", False)
    with scene.sessions() as session:
        assert forecasts.of_job(session, cancelled) is None


def test_forecasts_learn_from_jobs_that_ran_through(scene: Scene) -> None:
    first = scene.job()
    run(scene.worker())
    scene.change(lambda s: s.execute(update(ForecastRow).values(actual_seconds=100.0)))
    second = scene.job()
    run(scene.workers[0])
    before, after = forecast_of(scene, first), forecast_of(scene, second)
    assert before.result is not None
    assert after.result is not None
    assert before.result["seconds"]["basis"]["interval"] == "guess"
    assert after.result["seconds"]["basis"] == {
        "like_jobs": 1,
        "jobs_of_this_kind": 1,
        "jobs_on_such_machines": 1,
        "interval": "default",
    }
    assert after.seconds_p50 == pytest.approx(100, rel=0.02)


def test_until_like_jobs_say_how_wide_an_interval_is_others_do(scene: Scene) -> None:
    first_id = scene.job()
    run(scene.worker())
    first = forecast_of(scene, first_id)
    told = {**(first.result or {})}
    told["seconds"] = {**told["seconds"], "basis": {"interval": "default"}}

    def copy(session: Session, number: int) -> None:
        """Of another method, forecast as 10 s; they took 9 to 11."""
        columns = {c.key: getattr(first, c.key) for c in ForecastRow.__table__.columns}
        columns |= {"id": f"forecast-{number}", "job_id": None, "method": "dpo", "result": told}
        columns |= {"seconds_p50": 10.0, "actual_seconds": 9.0 + number / 5}
        session.add(ForecastRow(**columns))

    with scene.sessions.begin() as session:
        for number in range(11):
            copy(session, number)
    second_id = scene.job()
    run(scene.workers[0])
    result = forecast_of(scene, second_id).result
    assert result is not None
    assert result["seconds"]["basis"]["interval"] == "of_others"
    # The default is four times as wide; so few seconds are told in few digits.
    assert result["seconds"]["p95"] / result["seconds"]["p05"] < 2


def test_the_forecast_says_when_a_job_ends_until_its_steps_do() -> None:
    pace = Pace(forecast_s=400.0)

    def step(number: int) -> StepMetrics:
        return StepMetrics(
            job_id="x",
            step=number,
            total_steps=100,
            epoch=1,
            learning_rate=1.0,
            num_tokens=1,
            step_time_s=1.0,
            values={},
        )

    told = [pace.remaining_s(step(number)) for number in range(1, MEASURED_STEPS + 1)]
    assert told[0] == pytest.approx(400 * 0.99)
    assert told[-2] == pytest.approx(400 * 0.91)
    assert told[-1] == pytest.approx(90)
    assert Pace().remaining_s(step(1)) == pytest.approx(99)


def test_the_trainer_s_memory_is_its_peak(tmp_path: Path) -> None:
    memory = TrainerMemory(1)
    memory._file = tmp_path / "statm"
    memory.look()
    assert memory.grown() is None
    memory._file.write_text("900 100 3\n")
    memory.look()
    peak = memory.grown()
    assert peak is not None
    memory._file.write_text("900 50 3\n")
    memory.look()
    assert memory.grown() is None
    memory._file.write_text("900 200 3\n")
    memory.look()
    assert memory.grown() == 2 * peak


def test_workers_tell_of_their_machines_and_are_forgotten(scene: Scene) -> None:
    with scene.sessions() as session:
        assert hosts.seen(session) == []
        assert hosts.most_bytes([]) is None
    presence = Presence(scene.sessions, "worker-1")
    presence.once()
    presence.once()
    large = Host("another", 8, False, 10**15, "bf16")
    scene.change(lambda s: hosts.report(s, "worker-2", large))
    with scene.sessions() as session:
        found = hosts.seen(session)
    assert found == [large, Host.here()]
    assert hosts.most_bytes(found) == 10**15
    assert hosts.most_bytes([*found, Host("gpu", 8, True, None, "bf16")]) is None
    long_ago = WorkerRow.seen_at - timedelta(seconds=hosts.SEEN_S)
    scene.change(lambda s: s.execute(update(WorkerRow).values(seen_at=long_ago)))
    with scene.sessions() as session:
        assert hosts.seen(session) == []
    presence.once()
    with scene.sessions() as session:
        assert [row.name for row in session.query(WorkerRow)] == ["worker-1"]


def test_a_job_whose_longest_example_does_not_fit_is_told_how_long_would(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foundation import memory

    least = forecast_least(scene)
    monkeypatch.setattr(memory, "total_bytes", lambda: least - 1)
    monkeypatch.setattr(memory, "has_gpu", lambda: False)
    job_id = scene.job(colour_rows(10))
    run(scene.workers[0])
    job = scene.row(job_id)
    assert job.error is not None
    assert job.error["code"] == "out_of_memory"
    assert "examples of 6 tokens" not in job.error["message"]
    assert "What would fit: " in job.error["message"]


def forecast_least(scene: Scene) -> int:
    job_id = scene.job()
    run(scene.worker())
    result = forecast_of(scene, job_id).result
    assert result is not None
    least: int = result["memory"]["least_bytes"]
    return least
