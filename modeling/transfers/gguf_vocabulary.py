"""A base's tokenizer in GGUF's words: the tokens in order, what kind each is, the merges, and the name of the pre-tokenizer.

GGUF only names a pre-tokenizer, and what reads the file has it built in. So it is recognised here by what it does, exactly, and one
without a name is refused: a model that gets other tokens than it was trained on answers worse, and nobody is told.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import pre_tokenizers

from text.tokenizer import Tokenizer

from .merged import TransferFailed

_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}
"""Regular expressions of a Split that stands before a ByteLevel without one of its own."""


@dataclass(frozen=True)
class GgufVocabulary:
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    adds_bos: bool
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    padding_id: int | None
    chat_template: str | None


def read(base: Path, vocab_size: int) -> GgufVocabulary:
    """`vocab_size` is that of the weights, which may have rows to spare. Raises TransferFailed."""
    definition = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    model = definition["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or definition.get("normalizer"):
        raise TransferFailed(
            "The base's tokenizer is no byte-level BPE, and GGUF is written for those alone. Export the "
            "model with the format 'safetensors'."
        )
    tokens = {id: token for token, id in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, TokenType.NORMAL)
    for added in definition.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if max(tokens) >= vocab_size:
        raise TransferFailed("The base's tokenizer has more tokens than its weights have rows.")
    tokenizer = Tokenizer.load(base)
    ids = {name: _id_of(base, name, tokens) for name in ("unk_token", "pad_token")}
    template = base / "chat_template.jinja"
    return GgufVocabulary(
        pre=_pre(definition.get("pre_tokenizer")),
        tokens=[tokens.get(id, f"[PAD{id}]") for id in range(vocab_size)],
        types=[int(kinds.get(id, TokenType.UNUSED)) for id in range(vocab_size)],
        merges=[each if isinstance(each, str) else " ".join(each) for each in model["merges"]],
        adds_bos=_adds_bos(tokenizer),
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        unknown_id=ids["unk_token"],
        padding_id=ids["pad_token"],
        chat_template=(
            template.read_text(encoding="utf-8")
            if template.is_file()
            else _configured(base).get("chat_template")
        ),
    )


def _adds_bos(tokenizer: Tokenizer) -> bool:
    """Whether plain text gets a start token before it."""
    return tokenizer.bos_id is not None and tokenizer.encode_prompt("x")[:1] == [tokenizer.bos_id]


def _pre(pre_tokenizer: Any) -> str:
    """The name that readers of GGUF know it by."""
    match _parts(pre_tokenizer):
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False},
        ]:
            return "smollm"
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"} as split,
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ] if pattern in _PATTERNS and not split.get("invert"):
            return _PATTERNS[pattern]
    raise TransferFailed(
        "The way in which the base's tokenizer splits text has no name in GGUF that is known here. Export "
        "the model with the format 'safetensors'."
    )


def _parts(pre_tokenizer: Any) -> list[dict[str, Any]]:
    if not pre_tokenizer:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [_complete(part) for part in pre_tokenizer["pretokenizers"]]
    return [_complete(pre_tokenizer)]


def _complete(part: dict[str, Any]) -> dict[str, Any]:
    """With the library's own values for what is not said."""
    if part["type"] == "ByteLevel":
        default = pre_tokenizers.ByteLevel()
        return {
            "use_regex": default.use_regex,
            "add_prefix_space": default.add_prefix_space,
            **part,
        }
    return part


def _configured(base: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(
        (base / "tokenizer_config.json").read_text(encoding="utf-8")
    )
    return config


def _id_of(base: Path, name: str, tokens: dict[int, str]) -> int | None:
    value = _configured(base).get(name)
    text = value.get("content") if isinstance(value, dict) else value
    return next((id for id, token in tokens.items() if token == text), None)
