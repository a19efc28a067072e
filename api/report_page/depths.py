"""Pictures of what is inside a tuned model: where its change is, and how much of it is needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from . import svg

WIDTH, LEFT, TOP, CELL, HEIGHT = 740, 110, 24, 22, 240
SHADES = ("#eef3f8", "#cfe0ee", "#a6c8e1", "#74a9cf", "#3d86bb", "#0072b2")
"""From nothing to the largest change."""

Json = Mapping[str, Any]


def heat_map(weights: Json) -> Markup | None:
    """Each weight's change beside the weight, by layer and projection; None where there is none in layers."""
    cells = {
        (each["projection"], each["block"]): each["relative_norm"]
        for each in weights.get("weights", ())
        if each["block"] is not None and len(each["shape"]) == 2 and each["relative_norm"]
    }
    if not cells:
        return None
    largest = max(cells.values())
    title = f"Size of the change beside the weight, by layer; the darkest is {100 * largest:.1f} %"
    num_rows = len({projection for projection, _ in cells})
    return svg.picture(WIDTH, TOP + CELL * num_rows + 30, title, _cells(cells, largest))


def dial(found: Json) -> Markup | None:
    """Two curves over the strength, each as a share of its own range; None where there is nothing to compare."""
    points = found.get("strengths", ())
    if len(points) < 2 or "dev" not in points[0] or "kl" not in points[0]:
        return None
    losses = [each["dev"] for each in points]
    title = (
        f"NLL of wanted answers from {max(losses):.3f} to {min(losses):.3f} (blue), and KL from the base up to "
        f"{max(each['kl'] for each in points):.3f} nats a token (orange), by strength; {found['chosen_on']['rows']} rows"
    )
    return svg.picture(WIDTH, HEIGHT + 40, title, _curves(points))


def _cells(cells: Mapping[tuple[str, int], float], largest: float) -> Iterator[str]:
    rows = sorted({projection for projection, _ in cells})
    blocks = sorted({block for _, block in cells})
    width = min(CELL, (WIDTH - LEFT - 10) / len(blocks))
    for place, projection in enumerate(rows):
        y = TOP + CELL * place
        yield svg.text(LEFT - 10, y + 15, projection, anchor="end")
        for column, block in enumerate(blocks):
            value = cells.get((projection, block))
            if value is not None:
                shade = SHADES[min(len(SHADES) - 1, int(len(SHADES) * value / largest))]
                yield svg.box(LEFT + width * column, y, width - 1, CELL - 1, shade)
    bottom = TOP + CELL * len(rows) + 16
    yield svg.text(LEFT, bottom, f"layer {blocks[0]}")
    yield svg.text(LEFT + width * len(blocks), bottom, f"{blocks[-1]}", anchor="end")


def _curves(points: Any) -> Iterator[str]:
    most = max(each["strength"] for each in points) or 1.0

    def x(strength: float) -> float:
        return 50 + (WIDTH - 100) * strength / most

    yield svg.line(50, HEIGHT, WIDTH - 50, HEIGHT)
    for each in points:
        yield svg.text(x(each["strength"]), HEIGHT + 18, f"{each['strength']:g}", anchor="middle")
    for name, colour in (("dev", svg.BLUE), ("kl", svg.ORANGE)):
        values = [each[name] for each in points]
        low, range_ = min(values), (max(values) - min(values)) or 1.0
        places = [
            (x(each["strength"]), HEIGHT - 10 - (HEIGHT - 40) * (each[name] - low) / range_)
            for each in points
        ]
        for (x1, y1), (x2, y2) in itertools.pairwise(places):
            yield svg.line(x1, y1, x2, y2, colour, 2)
        for at in places:
            yield svg.dot(*at, colour)
