"""What a safetensors file begins with, for those who write one tensor after the other: its length (u64), then JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Literal

CACHE_LINE_BYTES = 64
ITEM_BYTES = {"F32": 4, "BF16": 2}


def header(shapes: Mapping[str, Sequence[int]], dtype: Literal["F32", "BF16"]) -> tuple[bytes, int]:
    """The beginning of a file of these tensors, all of one dtype, and the bytes of them that follow, in this order.

    It is padded so that tensors start on cache lines: models compute straight from the mapped file.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + ITEM_BYTES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % CACHE_LINE_BYTES)
    return len(encoded).to_bytes(8, "little") + encoded, offset
