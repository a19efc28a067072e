"""A running job's loss is read once, after a tenth of its steps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.factories import colour_rows
from tests.worker.scene import Scene
from training.messages import Dpo, Lora, StepMetrics, Supervised, TrainConfig
from worker.job.run import run
from worker.loss_reading import LossReading


def reading(num_in_epoch: int = 1000, **values: Any) -> LossReading:
    config = TrainConfig(
        trainable=Lora(rank=8, alpha=32.0, target_modules=("q_proj",)),
        base_model="tiny-random",
        base_path="/",
        n_epochs=1,
        batch_size=1,
        learning_rate_multiplier=1.0,
        learning_rate=1e-3,
        warmup_steps=0,
        seed=1,
        max_seq_len=64,
        **{"method": Supervised(), **values},
    )
    return LossReading(config, num_in_epoch)


def step(number: int, loss: float, total: int = 200) -> StepMetrics:
    return StepMetrics(
        job_id="x",
        step=number,
        total_steps=total,
        epoch=1,
        learning_rate=1.0,
        num_tokens=100 * number,
        step_time_s=1.0,
        values={"train_loss": loss},
    )


def curve(number: float) -> float:
    return float(0.5 + 2.5 / (1 + (number / 30) ** 0.9))


def test_it_is_told_once_with_where_the_loss_is_going() -> None:
    seen = reading()
    told = [seen.see(step(number, curve(number))) for number in range(1, 60)]
    assert [number for number, each in enumerate(told, 1) if each] == [20]
    assert told[19] is not None
    text, data = told[19]
    assert text.startswith(
        "After 20 of 200 steps the loss on rows that it had not seen went from 2.8"
    )
    assert "hardly moved" not in text
    final = data["reading"]["final"]
    assert final["p05"] <= curve(200) <= final["p95"]


def test_a_flat_one_is_told_as_such() -> None:
    seen = reading()
    found = [each for n in range(1, 21) if (each := seen.see(step(n, 2.0 + n % 2 / 100)))]
    assert "It has hardly moved" in found[0][0]


def test_where_there_is_nothing_to_see_nothing_is_told() -> None:
    short, resumed, other, known = (
        reading(),
        reading(),
        reading(method=Dpo()),
        reading(num_in_epoch=5),
    )
    for number in range(1, 40):
        loss = curve(number)
        assert short.see(step(number, loss, total=19)) is None
        assert other.see(step(number, loss)) is None
        # Of known rows from the sixth step on.
        assert known.see(step(number, loss)) is None
        if number > 3:
            assert resumed.see(step(number, loss)) is None


def test_it_is_an_event_of_the_job(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = scene.job(colour_rows(20), hyperparameters={"n_epochs": 1, "batch_size": 1})
    run(scene.worker())
    (event,) = [e for e in scene.events(job_id) if e.key == "reading"]
    assert event.message.startswith("After 10 of 20 steps the loss on rows")
