"""Jobs for which memory is scarce: what they compute again, when they compute less at a time, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation import memory as machine
from tests.training import jobs
from tests.training.reports import checkpoints_of
from training import memory
from training.batches import MicroBatch
from training.messages import Alert, CheckpointSaved, Failed, Report, StepMetrics
from training.primitives import Learner

NO_ROOM = "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory"


def scarce(
    monkeypatch: pytest.MonkeyPatch, limit_tokens: int, *, from_step: int = 1
) -> Callable[[], int]:
    """Passes of more tokens fail from a step on; says how many did."""
    score: Any = Learner._score
    failed = 0

    def limited(learner: Learner, batch: MicroBatch) -> Any:
        nonlocal failed
        found = score(learner, batch)
        is_learning = torch.is_grad_enabled() and len(batch.input_ids) != memory.PROBE_TOKENS
        if is_learning and learner._step >= from_step and len(batch.input_ids) > limit_tokens:
            failed += 1
            raise RuntimeError(NO_ROOM)
        return found

    monkeypatch.setattr(Learner, "_score", limited)
    return lambda: failed


def weights(saved: CheckpointSaved) -> bytes:
    return (Path(saved.path) / "artifact" / "adapter_model.safetensors").read_bytes()


def values_of(reports: list[Report]) -> dict[int, dict[str, float]]:
    return {each.step: each.values for each in reports if isinstance(each, StepMetrics)}


def test_memory_that_runs_out_halves_what_is_computed_at_a_time_once(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(jobs.run(jobs.start(base_path, tmp_path / "plain", micro_batch_tokens=260)))
    with monkeypatch.context() as patch:
        num_failed = scarce(patch, 130, from_step=3)
        job = jobs.start(base_path, tmp_path / "job", micro_batch_tokens=260)
        reports = list(jobs.run(job))
        assert num_failed() == 1
    assert reports[-1].kind == "finished"
    # The step that failed is whole: in other parts, it is the same up to the last digits.
    for step, values in values_of(plain).items():
        for name, value in values.items():
            assert values_of(reports)[step][name] == pytest.approx(value, rel=2e-3)
    assert all(values_of(reports)[step] == values_of(plain)[step] for step in (1, 2))
    (alert,) = (report for report in reports if isinstance(report, Alert))
    assert (alert.step, alert.key) == (3, "memory")
    assert "in parts of 130 tokens" in alert.text
    # It is saved at once, and goes on from there as it did, whatever memory there is then.
    first = checkpoints_of(reports)[0]
    assert first.step == 3
    resumed = list(jobs.run(job.model_copy(update={"resume_from": first.path})))
    later = {step: values for step, values in values_of(reports).items() if step > 3}
    assert values_of(resumed) == later
    assert weights(checkpoints_of(resumed)[-1]) == weights(checkpoints_of(reports)[-1])


def test_memory_that_runs_out_again_fails_the_job_with_the_numbers(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_failed = scarce(monkeypatch, 10)
    failed = list(jobs.run(jobs.start(base_path, tmp_path)))[-1]
    assert isinstance(failed, Failed)
    assert num_failed() == 2
    assert (failed.code, failed.is_user_error) == ("out_of_memory", True)
    assert "for gradients and moments of what is trained" in failed.message
    assert "at a time" in failed.message
    assert "There are " in failed.message


@pytest.mark.parametrize(
    ("available_bytes", "words"),
    [
        (10**6, "A tuning that trains less of the base, such as lora or prefix"),
        (2.03e8, "tokens at most would fit, see luthier.max_seq_len"),
    ],
)
def test_a_job_that_cannot_fit_fails_before_its_first_step(
    base_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    available_bytes: float,
    words: str,
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: int(available_bytes))
    job = jobs.start(base_path, tmp_path, micro_batch_tokens=100_000)
    (failed,) = jobs.run(job)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.is_user_error) == ("out_of_memory", True)
    assert words in failed.message


def test_scarce_memory_has_blocks_computed_again_and_changes_no_bit(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(jobs.run(jobs.start(base_path, tmp_path / "plain", n_epochs=1)))
    planned: list[bool] = []
    plan = Learner.plan_memory

    def noted(learner: Learner, longest: int) -> None:
        plan(learner, longest)
        planned.append(learner._recomputes)

    monkeypatch.setattr(Learner, "plan_memory", noted)
    monkeypatch.setattr(machine, "available_bytes", lambda: int(2.1e8))
    reports = list(jobs.run(jobs.start(base_path, tmp_path / "scarce", n_epochs=1)))
    assert planned == [True]
    assert values_of(reports) == values_of(plain)
    assert weights(checkpoints_of(reports)[-1]) == weights(checkpoints_of(plain)[-1])


def test_what_torch_raises_without_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("shapes do not fit"))
