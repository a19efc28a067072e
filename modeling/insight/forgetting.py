"""How far a tuned model has moved from its base where nobody asked it to: on what the base itself says, and on neutral text."""

from __future__ import annotations

import dataclasses
import json
import pydoc_data.topics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from text.tokenizer import Tokenizer

from . import samples
from .base_weights import save
from .likelihood import divergence, log_softmax, row_losses
from .samples import DrawnSample
from .tuned import TokenRow, TunedModel
from .weights import OnProgress

NEUTRAL = Path(__file__).with_name("neutral.json")
NUM_DRIFT_TEXTS = 12
MAX_DRIFT_TOKENS = 256
MAX_KEPT_STATES_BYTES = 256 << 20

Json = dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """Samples of the base with the base's own hidden states there, which are all that comparing with it takes."""

    model: TunedModel
    samples: Sequence[DrawnSample]
    states: Sequence[Tensor]
    """(T, D) of each: of the places from which its drawn tokens are predicted."""
    head: Tensor
    """The base's (V, D)."""

    @classmethod
    def of_base(
        cls, model: TunedModel, folder: Path, kept: Path, on_progress: OnProgress
    ) -> Reference:
        """Drawn and computed once for each base and precision. The model is the base meanwhile."""
        with model.as_base():
            drawn = samples.of_base(model.model, folder, kept, on_progress)
            dtype = str(model.model.dtype).removeprefix("torch.")
            path = kept / f"states-{samples.VERSION}-{dtype}.safetensors"
            states = _kept_states(path, drawn)
            if states is None:
                states = states_of(model, drawn)
                if sum(each.numel() * each.itemsize for each in states) <= MAX_KEPT_STATES_BYTES:
                    save(path, {str(i): each.cpu().contiguous() for i, each in enumerate(states)})
            return cls(model, drawn, [each.to(model.device) for each in states], model.head)

    @classmethod
    def of_samples(cls, model: TunedModel, drawn: Sequence[DrawnSample]) -> Reference:
        with model.as_base():
            return cls(model, drawn, states_of(model, drawn), model.head)

    def part(self, num_samples: int) -> Reference:
        """The first ones of both halves."""
        chosen: list[int] = []
        for is_chat in (True, False):
            of_half = [i for i, each in enumerate(self.samples) if each.is_chat is is_chat]
            chosen += of_half[: num_samples // 2]
        return dataclasses.replace(
            self,
            samples=[self.samples[i] for i in chosen],
            states=[self.states[i] for i in chosen],
        )

    def divergences(self) -> list[Tensor]:
        """KL(base‖model as it is now) at each drawn token, of each sample, in nats."""
        model = self.model
        theirs = states_of(model, self.samples)
        return [
            divergence(ours, self.head, states, model.head, model.logit_scale).cpu()
            for ours, states in zip(self.states, theirs, strict=True)
        ]

    def entropy(self) -> float:
        """Of the base's own predictions there, in nats a token."""
        total, number = 0.0, 0
        for states in self.states:
            for _, log_p in log_softmax(states, self.head, self.model.logit_scale):
                total -= float((log_p.exp() * log_p).sum())
                number += len(log_p)
        return total / number if number else 0.0


def states_of(model: TunedModel, drawn: Sequence[DrawnSample]) -> list[Tensor]:
    states = model.states([sample.ids[:-1] for sample in drawn])
    return [each[len(sample.prompt) - 1 :] for sample, each in zip(drawn, states, strict=True)]


def of_samples(reference: Reference) -> Json:
    """KL(base‖tuned) a token: mean and the value that 5 % are above, with means by sample to draw intervals from."""
    found = reference.divergences()
    halves = {"chat": True, "text": False}
    by_half = {
        name: _summary(
            [f for f, s in zip(found, reference.samples, strict=True) if s.is_chat is half]
        )
        for name, half in halves.items()
    }
    return {
        **_summary(found),
        "unit": "nats a token",
        "direction": "KL(base || tuned)",
        "seed": samples.SEED,
        "version": samples.VERSION,
        "base_entropy": reference.entropy(),
        "by_half": {name: each for name, each in by_half.items() if each["num_tokens"]},
        "by_sample": [{"sum": float(each.sum()), "num_tokens": len(each)} for each in found],
    }


def of_prompts(
    model: TunedModel, prompts: Sequence[Sequence[int]], stop_ids: frozenset[int], num_tokens: int
) -> Json:
    """The same on what the base says to these prompts."""
    with model.as_base():
        drawn = samples.draw(model.model, prompts, stop_ids, num_tokens, samples.SEED)
    of_base = [
        DrawnSample(list(prompt), tokens, True)
        for prompt, tokens in zip(prompts, drawn, strict=True)
    ]
    found = Reference.of_samples(model, of_base).divergences()
    return {**_summary(found), "num_prompts": len(prompts), "seed": samples.SEED}


def _summary(found: Sequence[Tensor]) -> Json:
    values = torch.cat(list(found)).double() if found else torch.zeros(0)
    return {
        "mean": float(values.mean()) if len(values) else None,
        "p95": float(values.quantile(0.95)) if len(values) else None,
        "num_tokens": len(values),
        "num_samples": len(found),
    }


def neutral_rows(tokenizer: Tokenizer) -> tuple[list[TokenRow], list[Json]]:
    """The project's own paragraphs, and for drift some of Python's documentation, with what each is."""
    texts: list[Json] = json.loads(NEUTRAL.read_text(encoding="utf-8"))["texts"]
    topics = pydoc_data.topics.topics
    longest = sorted(topics, key=lambda name: (-len(topics[name]), name))[:NUM_DRIFT_TEXTS]
    texts = texts + [
        {"language": "en", "register": "drift", "text": topics[name]} for name in sorted(longest)
    ]
    rows, about = [], []
    for text in texts:
        ids = tokenizer.encode_prompt(text["text"])
        if text["register"] == "drift":
            ids = ids[:MAX_DRIFT_TOKENS]
        rows.append(TokenRow(ids, [1.0] * len(ids)))
        about.append({"language": text["language"], "register": text["register"]})
    return rows, about


def of_neutral(model: TunedModel, tokenizer: Tokenizer) -> Json:
    """NLL a token of texts that no job is about, by both; of each text, to draw intervals from."""
    rows, about = neutral_rows(tokenizer)
    tuned = row_losses(model, rows)
    with model.as_base():
        base = row_losses(model, rows)
    texts = [
        {**each, "num_tokens": int(number), "base_nll": ours / number, "tuned_nll": theirs / number}
        for each, (ours, number), (theirs, _) in zip(about, base, tuned, strict=True)
    ]
    own = [each for each in texts if each["register"] != "drift"]
    return {
        "version": json.loads(NEUTRAL.read_text(encoding="utf-8"))["version"],
        **_nll(own),
        "drift": _nll([each for each in texts if each["register"] == "drift"]),
        "by_language": {
            language: _nll([each for each in own if each["language"] == language])
            for language in sorted({each["language"] for each in own})
        },
        "by_register": {
            register: _nll([each for each in own if each["register"] == register])
            for register in sorted({each["register"] for each in own})
        },
        "texts": texts,
    }


def _nll(texts: Sequence[Json]) -> Json:
    number = sum(each["num_tokens"] for each in texts)
    base, tuned = (
        sum(each[name] * each["num_tokens"] for each in texts) / number
        for name in ("base_nll", "tuned_nll")
    )
    return {"base_nll": base, "tuned_nll": tuned, "rise": tuned - base, "num_tokens": number}


def _kept_states(path: Path, drawn: Sequence[DrawnSample]) -> list[Tensor] | None:
    try:
        found = safetensors.torch.load_file(path)
    except (OSError, SafetensorError):
        return None
    states = [found.get(str(i)) for i in range(len(drawn))]
    fits = all(
        each is not None and len(each) == len(sample.drawn)
        for each, sample in zip(states, drawn, strict=True)
    )
    return [each for each in states if each is not None] if fits else None
