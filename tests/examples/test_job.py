from __future__ import annotations

import io
from typing import Any

from openai.types.fine_tuning import FineTuningJobEvent
from rich.console import Console

from examples.job import Display


def event(message: str, data: dict[str, Any] | None = None) -> FineTuningJobEvent:
    return FineTuningJobEvent(
        id="ftevent-1",
        created_at=0,
        level="info",
        message=message,
        object="fine_tuning.job.event",
        data=data,
        type="metrics" if data else "message",
    )


def shown(*events: FineTuningJobEvent) -> tuple[str, Display]:
    """What is printed where there is no terminal, and the display that printed it."""
    output = io.StringIO()
    with Display(Console(file=output, width=100)) as display:
        for each in events:
            display.show(each)
    return output.getvalue(), display


def test_messages_are_printed_and_metrics_are_kept() -> None:
    step = {"step": 1, "total_steps": 2, "train_loss": 1.5}
    text, display = shown(event("Fine-tuning job started"), event("Step 1/2", step))
    assert "Fine-tuning job started" in text
    assert "step 1/2  loss 1.500" in text
    assert display.metrics == [step]


def test_steps_in_quick_succession_are_not_all_printed_but_the_last_one_is() -> None:
    steps = [{"step": n, "total_steps": 9, "train_loss": 1.0} for n in range(1, 10)]
    text, display = shown(*(event("Step", step) for step in steps))
    assert text.count("step ") == 2
    assert "step 9/9" in text
    assert len(display.metrics) == 9


def test_rate_is_shown_when_the_steps_tell_their_tokens() -> None:
    steps = [
        {"step": n, "total_steps": 2, "train_loss": 1.0, "num_tokens": 500 * n} for n in (1, 2)
    ]
    text, _ = shown(*(event("Step", step) for step in steps))
    assert "tokens/s" in text


def test_terminal_gets_a_bar_instead_of_lines() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True)
    with Display(console) as display:
        for n in (1, 2, 3):
            display.show(event("Step", {"step": n, "total_steps": 3, "train_loss": 1 / n}))
    text = output.getvalue()
    assert "3/3" in text
    assert "loss 0.333" in text
    assert "step 3/3" not in text
