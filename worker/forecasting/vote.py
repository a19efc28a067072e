"""What copying answers from rows that are near already gets right: what tuning has to beat. No model.

Each row that is looked at is answered by the rows that are nearest to it, itself and those that ask the very same left
out: objects field by field, anything else as a whole.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dataset.neighbours import Neighbours
from dataset.task_type import LastTurn, TaskTypeCollector, without_fence

NUM_VOTES = 8
MAX_ROWS = 5_000
"""That are voted by."""
MAX_ASKED = 200
"""That are voted on."""
_MAX_ANSWER_CHARS = 2_000

Json = dict[str, Any]


def vote(turns: Sequence[LastTurn], seed: int = 0) -> Json | None:
    """How many of the rows looked at it gets right; None where answers are too long to be copied."""
    collector = TaskTypeCollector()
    for turn in turns:
        collector.add(turn)
    task = collector.result()
    if task.type not in ("json", "class", "number", "extract"):
        return None
    known = [turn for turn in turns if len(turn.answer) <= _MAX_ANSWER_CHARS]
    draw = random.Random(seed)
    if len(known) > MAX_ROWS:
        known = draw.sample(known, MAX_ROWS)
    if len(known) <= NUM_VOTES:
        return None
    asked = draw.sample(range(len(known)), min(MAX_ASKED, len(known)))
    index = Neighbours([turn.prompt for turn in known])
    wanted = [_parts(turn.answer, task.type) for turn in known]
    num_right = 0
    for place in asked:
        near = _near(index, known, place)
        num_right += bool(near) and _voted([wanted[p] for p in near]) == wanted[place]
    return {"task": task.type, "n": len(asked), "right": num_right}


def _near(index: Neighbours, known: Sequence[LastTurn], place: int) -> list[int]:
    prompt = known[place].prompt
    return index.nearest(prompt, NUM_VOTES, passes=lambda other: known[other].prompt != prompt)


def _voted(near: Sequence[dict[str, str]]) -> dict[str, str]:
    """Of each part that most of them have the most frequent value; of equally frequent ones the nearest row's."""
    names = Counter(name for parts in near for name in parts)
    return {
        name: Counter(parts[name] for parts in near if name in parts).most_common(1)[0][0]
        for name, count in names.items()
        if 2 * count >= len(near)
    }


def _parts(answer: str, task: str) -> dict[str, str]:
    if task == "json":
        try:
            value = json.loads(without_fence(answer))
        except ValueError:
            value = None
        if isinstance(value, dict):
            return {name: json.dumps(part, sort_keys=True) for name, part in value.items()}
    return {"": " ".join(answer.split()).casefold()}
