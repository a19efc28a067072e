"""Jobs that cannot fit into the worker's memory fail before they are queued, with the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from foundation import memory
from storage.models.architecture import Architecture
from tests.worker.job.test_resolve import SMOLLM2
from tests.worker.scene import Scene
from training.messages import Full, Lora, OutputLayers, Prefix, Trainable
from worker.endings import JobFailed
from worker.job import room
from worker.job.run import run

LORA = Lora(rank=8, alpha=32.0, target_modules=("q_proj",))


@pytest.fixture
def smollm2() -> Architecture:
    config: dict[str, Any] = {**SMOLLM2, "vocab_size": 49152, "tie_word_embeddings": True}
    return Architecture.read(config, "llama")


def set_memory(
    monkeypatch: pytest.MonkeyPatch, total_bytes: float | None, *, gpu: bool = False
) -> None:
    monkeypatch.setattr(memory, "total_bytes", lambda: total_bytes)
    monkeypatch.setattr(memory, "has_gpu", lambda: gpu)


def test_the_need_goes_by_what_trains(smollm2: Architecture) -> None:
    # 134.5 million parameters, of which a block has 3.54 and the embedding 28.3.
    base = 2 * 134.5e6
    expected: dict[Trainable, float] = {
        Full(): base + 18 * 134.5e6,
        OutputLayers(num_blocks=2): base + 18 * 2 * 3.54e6,
        OutputLayers(num_blocks=2, train_head=True): base + 18 * (2 * 3.54e6 + 28.3e6),
        LORA: base + 16 * 8 * 305_280,
        Prefix(num_virtual_tokens=16): base + 16 * 16 * 2 * 192 * 30,
    }
    for trainable, num_bytes in expected.items():
        assert room.needed_bytes(trainable, smollm2) == pytest.approx(num_bytes, rel=0.01)


def test_what_cannot_fit_is_refused_with_the_numbers_and_what_would(
    smollm2: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_memory(monkeypatch, 2e9)
    room.check(LORA, smollm2)
    with pytest.raises(JobFailed) as caught:
        room.check(Full(), smollm2)
    message = caught.value.message
    assert (caught.value.code, caught.value.param) == ("out_of_memory", "tuning")
    assert "at least 2.69 GB" in message
    assert "134.5 million that the tuning full trains. The worker has 2.00 GB" in message
    assert "the tuning output_layers (0.33 GB and more) or lora (0.31 GB and more)" in message
    set_memory(monkeypatch, 1e8)
    with pytest.raises(JobFailed, match="What would fit: a smaller base"):
        room.check(LORA, smollm2)
    # Nothing is known, or another memory counts, which the trainer looks at.
    set_memory(monkeypatch, None)
    room.check(Full(), smollm2)
    set_memory(monkeypatch, 1e8, gpu=True)
    room.check(Full(), smollm2)


def test_what_is_merged_is_in_memory_besides(
    smollm2: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = 134.5e6
    layers = OutputLayers(num_blocks=2)
    # A copy of what the model changes and training has no copy of; of another kind the whole model that is published.
    expected: list[tuple[Trainable, Trainable, float]] = [
        (LORA, LORA, 2 * 30 * 576 * 576),
        (LORA, layers, 2 * 28 * 576 * 576 + 2 * whole),
        (LORA, Full(), 0),
        (layers, LORA, 2 * 2 * 3.54e6 + 2 * whole),
        (OutputLayers(num_blocks=3, train_head=True), layers, 2 * (3.54e6 + 28.3e6)),
        (Full(), LORA, 2 * whole + 2 * whole),
        (Full(), layers, 2 * (whole - 2 * 3.54e6) + 2 * whole),
    ]
    for merged, trainable, num_bytes in expected:
        plain = room.needed_bytes(trainable, smollm2)
        added = room.needed_bytes(trainable, smollm2, merged) - plain
        assert added == pytest.approx(num_bytes, rel=0.01), (merged, trainable)
    set_memory(monkeypatch, 5e8)
    room.check(LORA, smollm2)
    with pytest.raises(JobFailed) as caught:
        room.check(LORA, smollm2, Full())
    message = caught.value.message
    assert "a copy of 134.5 million for what is merged into them, the whole model that" in message
    assert "lora (0.31 GB and more) or prefix" in message
    assert "that begins with the base." in message


def test_it_is_told_before_the_job_is_queued(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    set_memory(monkeypatch, 1e6)
    job_id = scene.job(tuning={"type": "full"})
    run(scene.worker())
    job = scene.row(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "out_of_memory"
    assert not any("queued" in message for message in scene.messages(job_id))
