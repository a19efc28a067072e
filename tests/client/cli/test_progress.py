from __future__ import annotations

import pytest
from openai.types.fine_tuning import FineTuningJobEvent

from luthier.cli.progress import Pace, StepReport, duration
from tests.client.fake_api import JOB, MODEL, FakeApi, event, job, step_event

from .terminal import Terminal


def report(created_at: int, step: int, num_tokens: int, total_steps: int = 100) -> StepReport:
    return StepReport(created_at, step, total_steps, 1.5, None, num_tokens)


def test_pace_is_unknown_within_the_first_second() -> None:
    pace = Pace()
    pace.add(report(10, 1, 100))
    pace.add(report(10, 2, 200))
    assert pace.tokens_per_s is None
    assert str(pace) == ""


def test_pace_counts_the_last_minute_only() -> None:
    pace = Pace()
    for n in range(200):
        pace.add(report(n, n, 1000 * n, 1000))
    for n in range(200, 300):
        pace.add(report(200 + 2 * (n - 200), n, 200_000 + 1000 * (n - 200), 1000))
    assert pace.tokens_per_s == pytest.approx(500)
    assert pace.left_s == pytest.approx(701 * 2)


def test_pace_starts_anew_when_the_job_goes_back_to_a_checkpoint() -> None:
    pace = Pace()
    pace.add(report(0, 50, 5000))
    pace.add(report(100, 40, 4000))
    pace.add(report(101, 41, 4100))
    assert pace.tokens_per_s == 100


def test_duration_reads_like_a_clock() -> None:
    assert [duration(s) for s in (0.4, 59.6, 725, 10809)] == ["0:00", "1:00", "12:05", "3:00:09"]


def test_loss_over_the_whole_validation_file_wins() -> None:
    data = step_event(1, 2, valid_loss=3.0, full_valid_loss=2.0)
    found = StepReport.read(FineTuningJobEvent.model_validate(data))
    assert found is not None
    assert found.valid_loss == 2.0


def test_message_is_no_step() -> None:
    assert StepReport.read(FineTuningJobEvent.model_validate(event(1))) is None


def test_terminal_gets_a_bar_with_losses_and_pace(api: FakeApi) -> None:
    api.events = [event(0, "Fine-tuning [job] started")]
    with Terminal(api, "jobs", "follow", JOB) as terminal:
        terminal.wait_for("Fine-tuning [job] started")
        api.events += [step_event(1, 4), step_event(2, 4, valid_loss=1.25), step_event(3, 4)]
        terminal.wait_for("step 3/4")
        terminal.wait_for("0:01 left")
        api.jobs[JOB] = job(status="succeeded", fine_tuned_model=MODEL)
        assert terminal.exit_code() == 0
    assert "loss 1.50, valid 1.25" in terminal.output
    assert "100 tokens/s" in terminal.output
    assert terminal.output.rstrip().endswith(f"Model: {MODEL}")


def test_interrupt_leaves_the_job_and_says_how_to_come_back(api: FakeApi) -> None:
    api.events = [event(0, "Fine-tuning job started")]
    with Terminal(api, "jobs", "follow", JOB) as terminal:
        terminal.wait_for("Fine-tuning job started")
        terminal.interrupt()
        assert terminal.exit_code() == 130
    assert f"The job goes on; see it again with: luthier jobs follow {JOB}" in terminal.output
    assert "Traceback" not in terminal.output
    assert api.jobs[JOB]["status"] == "running"
