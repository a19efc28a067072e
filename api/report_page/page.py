"""report.json -> HTML. Whatever comes from rows, models and users goes through the template's escaping."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from . import depths, pictures

HERE = Path(__file__).parent
OWN = frozenset({"verdict", "data", "prompts", "contenders", "changed", "cost", "costs"})
"""Sections that the page has a form for; what else a report has is shown as it is."""
ABOUT = frozenset(
    {
        *("object", "schema_version", "id", "fine_tuning_job_id", "created_at", "model"),
        *("base_model", "depth", "seed"),
    }
)
MAX_TOLD = 20_000
"""Characters of a section that is shown as it is."""
MAX_SHOWN = 200
"""Rows in the page; report.json has them all."""

Json = Mapping[str, Any]


def html(report: Json) -> str:
    measured, changed = report.get("contenders", {}), report.get("changed", {})
    drawn = {}
    if measured.get("contenders"):
        drawn["contenders"] = pictures.contenders(measured)
    if changed.get("counts"):
        drawn["corners"] = pictures.corners(changed["counts"])
    if changed.get("parts"):
        drawn["parts"] = pictures.parts(changed)
    for name, draw in {"weights": depths.heat_map, "dial": depths.dial}.items():
        picture = draw(report.get(name, {}))
        if picture is not None:
            drawn[name] = picture
    rows, corner_of = _rows(measured, changed)
    return _template().render(
        report=report,
        style=Markup(STYLE),
        script=Markup(SCRIPT),
        policy=POLICY,
        drawn=drawn,
        measured=measured,
        changed=changed,
        rows=rows,
        corner_of=corner_of,
        others={name: found for name, found in report.items() if name not in OWN | ABOUT},
        max_shown=MAX_SHOWN,
    )


def read(content: bytes) -> Json:
    found: Json = json.loads(content)
    return found


def _rows(measured: Json, changed: Json) -> tuple[list[Json], dict[tuple[int, int], str]]:
    """Those that the page shows, the changed ones first, and how each changed."""
    by_place = {(row["line"], row["turn"]): row for row in measured.get("answers", ())}
    corner_of = {
        (line, turn): corner
        for corner, places in changed.get("rows", {}).items()
        for line, turn in places
    }
    order = ("lost", "gained", "neither", "both_right")
    places = sorted(corner_of, key=lambda place: (order.index(corner_of[place]), place))
    return [by_place[place] for place in places if place in by_place][:MAX_SHOWN], corner_of


def _template() -> jinja2.Template:
    return _environment.get_template("page.html")


def _percent(value: object) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else "-"


def _figure(found: Json) -> str:
    """With its interval."""
    return f"{_percent(found['value'])} ({100 * found['low']:.0f} to {100 * found['high']:.0f})"


def _points(found: Json) -> str:
    """A difference with its interval."""
    return f"{100 * found['value']:+.0f} ({100 * found['low']:.0f} to {100 * found['high']:.0f})"


def _number(value: object, digits: int = 0) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "-"


def _chance(p: float) -> str:
    return f"= {p:.3g}" if p >= 0.0001 else "< 0.0001"


def _pretty(value: object) -> str:
    told = json.dumps(value, indent=2, ensure_ascii=False)
    return told if len(told) <= MAX_TOLD else f"{told[:MAX_TOLD]}\n… (report.json has all of it)"


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


STYLE = (HERE / "page.css").read_text("utf-8")
SCRIPT = (HERE / "page.js").read_text("utf-8")
POLICY = f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; base-uri 'none'; form-action 'none'"
"""Nothing is fetched and nothing runs but what is in the page by these very bytes."""

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "percent": _percent,
    "figure": _figure,
    "points": _points,
    "number": _number,
    "chance": _chance,
    "pretty": _pretty,
}
