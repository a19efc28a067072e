"""PEFT as its documentation shows it: requests grouped by adapter, `set_adapter`, `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import peft
import torch

from modeling.base import choose_precision, load_base


class PeftPeer:
    """One adapter at a time."""

    def __init__(self, base_path: Path, folders: Sequence[Path]) -> None:
        base = load_base(base_path, precision=choose_precision("auto"), attn_implementation="sdpa")
        self._model = peft.PeftModel.from_pretrained(base, folders[0], adapter_name=folders[0].name)
        for folder in folders[1:]:
            self._model.load_adapter(folder, adapter_name=folder.name)
        self._names = [folder.name for folder in folders]

    @torch.inference_mode()
    def generate(self, prompts: Sequence[list[int]], num_tokens: int) -> None:
        """Answer all prompts, which are equally long, given to the adapters in turn."""
        for index, name in enumerate(self._names):
            self._model.set_adapter(name)
            input_ids = torch.tensor(prompts[index :: len(self._names)])
            self._model.generate(  # type: ignore[no-untyped-call]
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                min_new_tokens=num_tokens,
                max_new_tokens=num_tokens,
                do_sample=False,
                pad_token_id=0,
            )
