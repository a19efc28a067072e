"""Intruder directions: leading singular vectors of a tuned weight that are like none of the base's (2410.21228).

They are found of a few layers in full, and of the others only whether there can be any: not while the largest singular
value of the change is below the base's tenth, by half of it to be sure.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modeling.artifacts.artifact import Artifact

from .base_weights import BaseWeights
from .changes import Change, changes, names_of
from .factored import Factored
from .weights import OnProgress

NUM_DIRECTIONS = 10
MAX_COSINE = 0.5
"""A direction whose cosine with each of the base's is below it is an intruder."""
SCREEN = 0.5
NUM_BLOCKS = 4
"""Layers that are looked at in full, from the first to the last."""
# A block of vectors, a third of them to spare, turned until they stand still.
NUM_WARM = 32
MAX_ROUNDS = 40
MAX_RESIDUAL = 1e-10

Json = dict[str, Any]


def measure(
    artifact: Artifact,
    base: BaseWeights,
    seed: int,
    on_progress: OnProgress,
    num_blocks: int | None = NUM_BLOCKS,
) -> Json:
    """`num_blocks` None: all of them in full. Raises NotMeasurable."""
    names = names_of(artifact)
    full = _chosen(base.config.num_hidden_layers, num_blocks)
    measured: list[Json] = []
    for number, change in enumerate(changes(artifact, base, names)):
        if change.block is not None and change.factored is not None:
            measured.append(_of_change(change, base, seed, is_full=change.block in full))
        on_progress((number + 1) / len(names))
    return {
        "num_directions": NUM_DIRECTIONS,
        "max_cosine": MAX_COSINE,
        "screen": SCREEN,
        "blocks_in_full": sorted(full),
        "seed": seed,
        "weights": measured,
    }


def _chosen(num_layers: int, num_blocks: int | None) -> set[int]:
    if num_blocks is None or num_blocks >= num_layers:
        return set(range(num_layers))
    if num_blocks == 1:
        return {num_layers - 1}
    return {round(i * (num_layers - 1) / (num_blocks - 1)) for i in range(num_blocks)}


def _of_change(change: Change, base: BaseWeights, seed: int, *, is_full: bool) -> Json:
    assert change.factored is not None
    tenth = base.tenth_value(change.name)
    ratio = change.factored.largest / tenth if tenth else None
    found: Json = {
        "name": change.name,
        "block": change.block,
        "projection": change.projection,
        "largest_over_tenth": ratio,
    }
    if not is_full and ratio is not None and ratio < SCREEN:
        return found | {"is_screened": True, "count": 0, "cosines": None, "null": None}
    left, values = base.singular(change.name)
    cosines = of_leading(change.weight, change.factored, left)
    turned = change.factored.turned(seed, change.name)
    by_chance = of_leading(change.weight, turned, left)
    return found | {
        "is_screened": False,
        "count": _count(cosines),
        "cosines": cosines,
        "base_values": values[:NUM_DIRECTIONS].tolist(),
        "null": {"count": _count(by_chance), "cosines": by_chance},
    }


def _count(cosines: list[float]) -> int:
    return sum(cosine < MAX_COSINE for cosine in cosines)


def of_leading(weight: Tensor, change: Factored, base_left: Tensor) -> list[float]:
    """The largest cosine with any of the base's left singular vectors (O, K), of each leading one of the tuned weight's."""
    leading = leading_left(weight, change, base_left)
    cosines: list[float] = (base_left.T @ leading).abs().amax(dim=0).tolist()
    return cosines


def leading_left(weight: Tensor, change: Factored, base_left: Tensor) -> Tensor:
    """The leading left singular vectors of weight + change (O, 10), which is not formed unless it must be.

    Subspace iteration that begins with the base's and the change's own: where the tuned ones are to be found.
    """
    num = min(NUM_DIRECTIONS, *weight.shape)
    begin = torch.cat([base_left[:, :NUM_WARM], change.left[:, : max(change.rank, 1)]], dim=1)
    block = torch.linalg.qr(begin[:, : weight.shape[0]])[0]
    found = _turned_until_still(weight, change, block, num)
    if found is None:
        # Values that lie close together turn for long.
        tuned = weight + (change.left * change.values) @ change.right.T
        found = Factored.of_matrix(tuned).left[:, :num]
    return found


def _turned_until_still(weight: Tensor, change: Factored, block: Tensor, num: int) -> Tensor | None:
    """The first `num` of them (O, num), beginning with a block (O, M) of orthonormal columns."""
    for _ in range(MAX_ROUNDS):
        image = weight.T @ block + change.right @ (change.values[:, None] * (change.left.T @ block))
        image = weight @ image + change.left @ (change.values[:, None] * (change.right.T @ image))
        squares, turn = torch.linalg.eigh(block.T @ image)
        # They come rising.
        squares, turn = squares.flip(0), turn.flip(1)
        turned: Tensor = block @ turn
        residual = (image @ turn - turned * squares)[:, :num].norm(dim=0)
        if float(residual.max()) <= MAX_RESIDUAL * float(squares[0]):
            return turned[:, :num]
        block = torch.linalg.qr(image @ turn)[0]
    return None
