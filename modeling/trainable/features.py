"""What the frozen part of a model makes of sequences, kept on disk for the epochs to come.

The file belongs to one run of one job: base, number of blocks and precision are the same for all that is in it,
so a sequence's tokens are the whole key. It has no name, so whatever ends the process takes it away; what is
computed again has the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

MAX_BYTES = 16 << 30
MAX_SHARE_OF_FREE = 0.5
"""Of the disk, when it begins. What has no place is computed each time: an epoch asks for everything once, so to
put new sequences in the place of old ones would only cost the old ones' hits."""


class FeatureCache:
    """Keeps (T, D) tensors of one width and dtype."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(folder).free
        self._room_bytes = min(max_bytes, int(free_bytes * MAX_SHARE_OF_FREE))
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open for as long as the cache is
        self._places: dict[bytes, tuple[int, int]] = {}
        self._end_bytes = 0

    def get(self, input_ids: Tensor, like: Tensor) -> Tensor | None:
        """Of the sequence (T,); in the dtype, of the width and on the device of `like` (…, D)."""
        place = self._places.get(_key(input_ids))
        if place is None:
            return None
        start, num_bytes = place
        self._file.seek(start)
        content = bytearray(self._file.read(num_bytes))
        flat = torch.frombuffer(content, dtype=like.dtype)
        return flat.view(-1, like.shape[-1]).to(like.device)

    def put(self, input_ids: Tensor, features: Tensor) -> None:
        """Nothing, where there is no room."""
        content = features.detach().cpu().contiguous().view(torch.uint8).numpy().data
        if self._end_bytes + content.nbytes > self._room_bytes:
            return
        try:
            self._file.seek(self._end_bytes)
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._room_bytes = 0
            return
        self._places[_key(input_ids)] = (self._end_bytes, content.nbytes)
        self._end_bytes += content.nbytes

    def close(self) -> None:
        self._file.close()


def _key(input_ids: Tensor) -> bytes:
    return hashlib.blake2b(input_ids.cpu().numpy().tobytes(), digest_size=16).digest()
