"""The pictures of a report. Each says in its caption how many rows it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from . import svg

WIDTH, LEFT, RIGHT, ROW = 740, 340, 64, 26
MAX_PARTS = 30

Json = Mapping[str, Any]


def contenders(measured: Json) -> Markup:
    """Dots with whiskers: how often each is right, and between what."""
    rows = sorted(measured["contenders"], key=lambda each: float(each["primary"]["value"]))
    title = (
        f"{measured['measure']} of each contender with its 95 % interval, {measured['rows']} rows"
    )
    height = ROW * len(rows) + 40
    return svg.picture(WIDTH, height, title, _whiskers(rows, measured["best_alternative"]))


def parts(changed: Json) -> Markup:
    """Two dots a field, class or argument: the best alternative's, and the tuned model's."""
    rows = changed["parts"][:MAX_PARTS]
    title = f"What rows consist of: the tuned model beside {changed['against']}"
    return svg.picture(WIDTH, ROW * len(rows) + 40, title, _dumbbells(rows))


def corners(counts: Json) -> Markup:
    """One bar of all rows, by who was right."""
    title = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items())
    return svg.picture(WIDTH, 46, title, _bar(counts))


def _whiskers(rows: Sequence[Json], best: str | None) -> Iterator[str]:
    bottom = ROW * len(rows) + 8
    yield from _axis(bottom)
    for place, each in enumerate(reversed(rows)):
        y = ROW * place + 20
        name, primary = str(each["name"]), each["primary"]
        colour = svg.BLUE if name == "tuned" else svg.ORANGE if name == best else svg.GREY
        yield svg.text(LEFT - 12, y + 4, _short(str(each["title"])), anchor="end")
        yield svg.line(_x(primary["low"]), y, _x(primary["high"]), y, colour, 2)
        yield svg.dot(_x(primary["value"]), y, colour)
        yield svg.text(WIDTH - 8, y + 4, f"{100 * primary['value']:.0f} %", anchor="end")


def _dumbbells(rows: Sequence[Json]) -> Iterator[str]:
    yield from _axis(ROW * len(rows) + 8)
    for place, each in enumerate(rows):
        y = ROW * place + 20
        yield svg.text(LEFT - 12, y + 4, _short(str(each["name"])), anchor="end")
        yield svg.line(_x(each["other"]), y, _x(each["tuned"]), y, svg.LINE, 3)
        yield svg.dot(_x(each["other"]), y, svg.ORANGE)
        yield svg.dot(_x(each["tuned"]), y, svg.BLUE)
        yield svg.text(WIDTH - 8, y + 4, f"{100 * each['value']:+.0f}", anchor="end")


def _bar(counts: Json) -> Iterator[str]:
    colours = {"gained": svg.BLUE, "both_right": "#9cc9e3", "neither": svg.LINE, "lost": svg.ORANGE}
    total, x = max(1, sum(counts.values())), 0.0
    for name in ("both_right", "gained", "neither", "lost"):
        width = WIDTH * counts[name] / total
        if width:
            yield svg.box(x, 4, width, 20, colours[name])
            if width > 24:
                yield svg.text(x + 4, 40, f"{name.replace('_', ' ')} {counts[name]}")
        x += width


def _axis(bottom: float) -> Iterator[str]:
    for share in (0, 0.25, 0.5, 0.75, 1):
        yield svg.line(_x(share), 6, _x(share), bottom)
        yield svg.text(_x(share), bottom + 16, f"{100 * share:.0f} %", anchor="middle")


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, float(share)))


def _short(words: str) -> str:
    return words if len(words) <= 50 else f"{words[:49]}…"
