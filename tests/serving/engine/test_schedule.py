from __future__ import annotations

from pathlib import Path

import pytest
import torch

from serving.engine.kv.cache import KvCache
from serving.engine.kv.pool import PAGE_TOKENS, KvPool
from serving.engine.limits import Limits
from serving.engine.schedule import Scheduler, Work
from serving.engine.sequence import Generate, Sequence
from serving.engine.slots.lora import Adapter, AdapterSlots
from tests.serving.parts import load_model, one_step, prompt_of
from text.tokenizer import Tokenizer


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Setup:
    """A scheduler with everything real about it but the model's steps."""

    def __init__(
        self, base_path: Path, tokenizer: Tokenizer, *, num_pages: int = 100, num_slots: int = 2,
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        model = load_model(base_path)
        self.tokenizer = tokenizer
        self.pool = KvPool(
            model.config,
            size_bytes=num_pages * PAGE_TOKENS * 2 * 2 * 2 * 16 * 4,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        self.slots = AdapterSlots(model, num_slots)
        self.clock = Clock()
        self.scheduler = Scheduler(
            KvCache(self.pool),
            self.slots,
            limits or Limits(max_running=4, step_tokens=64),
            max_seq_len=min(2048, self.pool.num_tokens),
            clock=self.clock,
        )

    def add(
        self, prompt: list[int], *, adapter_id: str | None = None, max_tokens: int = 50
    ) -> Sequence:
        request = Generate(
            prompt=prompt,
            adapter=None if adapter_id is None else Adapter(adapter_id, {}),
        )
        sequence = Sequence(request, max_tokens, self.tokenizer, lambda _: None)
        self.scheduler.places.add(sequence)
        return sequence

    def step(self) -> list[Work]:
        return one_step(self.scheduler)

    def spans(self, work: list[Work]) -> dict[Sequence, int]:
        return {item.sequence: item.chunk.end - item.chunk.start for item in work}


@pytest.fixture
def setup(base_path: Path, tokenizer: Tokenizer) -> Setup:
    return Setup(base_path, tokenizer)


def test_long_prompt_is_read_in_chunks_beside_decoding(setup: Setup) -> None:
    short = setup.add(prompt_of(10))
    setup.step()
    long = setup.add(prompt_of(150, seed=1))
    spans = [setup.spans(setup.step()) for _ in range(4)]
    assert [span[short] for span in spans] == [1, 1, 1, 1]
    assert [span[long] for span in spans] == [63, 63, 24, 1]


def test_no_more_run_than_the_limit(setup: Setup) -> None:
    for seed in range(6):
        setup.add(prompt_of(5, seed))
    setup.step()
    assert len(setup.scheduler.places.running) == 4
    assert setup.scheduler.places.num_waiting == 2


def test_queues_of_different_adapters_take_turns(setup: Setup) -> None:
    hot = [setup.add(prompt_of(5, s), adapter_id="adapter-hot") for s in range(4)]
    cold = setup.add(prompt_of(5, 9), adapter_id="adapter-cold")
    setup.step()
    assert cold in setup.scheduler.places.running
    assert hot[3] not in setup.scheduler.places.running


def test_sequence_without_a_slot_waits_and_holds_nobody_up(setup: Setup) -> None:
    for name in "ab":
        setup.add(prompt_of(5), adapter_id=f"adapter-{name}")
    blocked = setup.add(prompt_of(5), adapter_id="adapter-c")
    base = setup.add(prompt_of(5))
    setup.step()
    assert blocked not in setup.scheduler.places.running
    assert base in setup.scheduler.places.running


def test_sequence_that_waited_long_for_a_slot_is_admitted_next(setup: Setup) -> None:
    running = [setup.add(prompt_of(5), adapter_id=f"adapter-{n}", max_tokens=3) for n in "ab"]
    blocked = setup.add(prompt_of(5), adapter_id="adapter-c")
    setup.step()
    setup.clock.now_s = 10.0
    # A stream of new requests for the adapters that are in their slots must not starve the third.
    late = [setup.add(prompt_of(5, s), adapter_id="adapter-a") for s in range(5)]
    setup.step()
    assert not set(late) & set(setup.scheduler.places.running)
    setup.step()
    assert not set(running) & set(setup.scheduler.places.running)
    setup.step()
    assert blocked in setup.scheduler.places.running
    setup.step()
    assert late[0] in setup.scheduler.places.running


def test_common_prompt_is_read_once(setup: Setup) -> None:
    prefix = prompt_of(200)
    sequences = [setup.add([*prefix, i]) for i in range(4)]
    num_computed = 0
    while any(s.num_generated == 0 for s in sequences):
        num_computed += sum(setup.spans(setup.step()).values())
    # The last token of each prompt, and the tokens generated meanwhile.
    assert num_computed <= 200 + 4 + 2


def test_batch_is_sorted_by_slot_and_prefix(setup: Setup) -> None:
    prefix = prompt_of(200)
    for i in range(2):
        setup.add([*prefix, i])
        setup.add(prompt_of(5, i), adapter_id="adapter-a")
    for _ in range(10):
        work = setup.step()
    assert len(work) == 4
    slots = [-1 if w.sequence.slot is None else w.sequence.slot for w in work]
    assert slots == sorted(slots)


def test_removed_sequence_gives_back_slot_and_row(setup: Setup) -> None:
    waiting = [setup.add(prompt_of(5, s), adapter_id="adapter-a") for s in range(6)]
    setup.step()
    for sequence in waiting:
        setup.scheduler.places.remove(sequence)
        setup.scheduler.places.remove(sequence)
    assert setup.scheduler.places.all_sequences() == []
    assert setup.slots.unload("adapter-a")
    # Rows this short are not worth keeping.
    assert setup.pool.num_used_tokens == 0


def test_everything_finishes_in_a_pool_that_is_too_small(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    """Rows outgrow the pool, so the youngest sequences give way and go on later."""
    setup = Setup(base_path, tokenizer, num_pages=6)
    sequences = [setup.add(prompt_of(60, s), max_tokens=100) for s in range(4)]
    num_computed = 0
    for _ in range(2000):
        num_computed += sum(setup.spans(setup.step()).values())
        if not setup.scheduler.places.all_sequences():
            break
    assert [s.num_generated for s in sequences] == [100] * 4
    assert num_computed < 4 * 160 * 3


def test_step_must_have_a_token_for_each_sequence() -> None:
    with pytest.raises(ValueError, match="token for each"):
        Limits(max_running=8, step_tokens=4)
