"""SVG in strings: the same numbers give the same bytes. Texts are escaped here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from markupsafe import Markup

BLUE, ORANGE, GREY, LINE = "#0072b2", "#d55e00", "#6b6f76", "#c9cdd3"
"""Two colours that everybody can tell apart, and two greys."""


def picture(width: float, height: float, title: str, shapes: Iterable[str]) -> Markup:
    """`title` is what a reader hears who does not see it."""
    size = f'viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
    inside = "".join(shapes)
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="sans-serif" font-size="12">'
        f"<title>{escape(title)}</title>{inside}</svg>"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = LINE, width: float = 1) -> str:
    ends = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{_n(width)}"/>'


def dot(x: float, y: float, colour: str, radius: float = 4) -> str:
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="{colour}"/>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
    return f'<rect {place} fill="{colour}"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#222") -> str:
    place = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(words)}</text>"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
