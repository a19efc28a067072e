"""The alphabet of byte-level BPE: every byte as one printable character, as GPT-2 has it."""

from __future__ import annotations


def _byte_to_char() -> dict[int, str]:
    """GPT-2's `bytes_to_unicode`: printable bytes stand for themselves, the others follow from U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return {byte: shifted.get(byte, chr(byte)) for byte in range(256)}


BYTE_TO_CHAR = _byte_to_char()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}
