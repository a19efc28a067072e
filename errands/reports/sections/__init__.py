"""What a report is made of, in the order in which it is made: each section may go by what those before it found.

A new one is a class as `errands.reports.context.Section` says, and a line in `all_sections`.
"""

from __future__ import annotations

from errands.reports.context import Section


def all_sections() -> list[Section]:
    """A new one of each. What they compute with takes a moment to import, which only reports wait for."""
    from .ablation import Ablation
    from .changed import Changed
    from .cost import Cost
    from .dial import Dial
    from .epochs import Epochs
    from .forgetting import Forgetting
    from .measured import Measured
    from .prompts_tried import PromptsTried
    from .weights import Weights

    return [
        PromptsTried(),
        Measured(),
        Changed(),
        Cost(),
        Forgetting(),
        Epochs(),
        Weights(),
        Dial(),
        Ablation(),
    ]
