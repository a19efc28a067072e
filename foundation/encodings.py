"""Texts that are not in UTF-8: which encoding it is, as far as one can tell, and how to convert it."""

from __future__ import annotations

import codecs

UTF_8_MARK = codecs.BOM_UTF8
"""What some editors put in front of a file in UTF-8; it means nothing."""
_MARKS = (
    # Those of UTF-32 first: one of them begins as one of UTF-16's does.
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
LOOKED_AT_BYTES = 64
"""Of a file's beginning, at most."""


def wide(beginning: bytes | bytearray) -> str | None:
    """The name of the encoding of two or four bytes a character that a file begins in, if it does.

    By its mark; without one by its zeros, for the texts of most languages begin with some ASCII.
    """
    for mark, name in _MARKS:
        if beginning.startswith(mark):
            return name
    looked_at = beginning[:LOOKED_AT_BYTES]
    for width, name in ((4, "UTF-32"), (2, "UTF-16")):
        units = len(looked_at) // width
        zeros = [looked_at[: units * width][place::width].count(0) for place in range(width)]
        if units and zeros[0] == 0 and min(zeros[1:]) * 2 > units:
            return f"{name}LE"
        if units and zeros[-1] == 0 and min(zeros[:-1]) * 2 > units:
            return f"{name}BE"
    return None


def advice(name: str) -> str:
    """What is wrong with a file in the encoding of that name, and how to mend it."""
    return f"the file is in {name}; save it as UTF-8, for example by {_command(name)}"


def advice_on(data: bytes) -> str:
    """How to mend what is no UTF-8 and in no wide encoding."""
    name = _narrow(data)
    if name is None:
        return "save the file as UTF-8; the command `file -i FILE` guesses what it is in"
    return f"the file is probably in {name}; save it as UTF-8, for example by {_command(name)}"


def _narrow(data: bytes) -> str | None:
    """WINDOWS-1252 where that makes letters, signs and quotes of all that is not ASCII."""
    try:
        odd = [char for char in data.decode("cp1252") if ord(char) > 127]
    except UnicodeDecodeError:
        return None
    usual = "\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u20ac\xa0\xa3\xa7\xa9\xab\xb0\xbb"
    return "WINDOWS-1252" if all(char.isalpha() or char in usual for char in odd) else None


def _command(name: str) -> str:
    return f"`iconv -f {name} -t UTF-8 FILE > NEW_FILE`"
