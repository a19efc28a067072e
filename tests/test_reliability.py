"""docs/reliability.md: each promise names tests that are there, each limit has the value that the code has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text("utf-8")

TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
LIMITS = re.findall(r"^\| [^|]+ \| ([^|]+) \| `([\w/]+\.py)::([\w.]+)`", TEXT, re.MULTILINE)

UNITS = {
    **{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30},
    **{"s": 1, "min": 60, "h": 3600, "days": 86_400},
}


@cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"))


def test_there_are_promises_and_limits() -> None:
    assert len(TESTS) > 50
    assert len(LIMITS) > 20
    assert len(LIMITS) == TEXT.count(".py::") - len(re.findall(r"`tests/[\w/]+\.py::", TEXT))


@pytest.mark.parametrize("path", sorted({path for path, _ in TESTS}))
def test_tests_that_hold_promises_are_there(path: str) -> None:
    named = {name for of, name in TESTS if of == path}
    there = {
        node.name
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assert named <= there


@pytest.mark.parametrize(("told", "path", "name"), LIMITS)
def test_limits_are_the_code_s(told: str, path: str, name: str) -> None:
    number, unit = re.match(r"([\d,.]+) ?(\w*)", told).groups()  # type: ignore[union-attr]
    assert float(number.replace(",", "")) * UNITS.get(unit, 1) == value(path, name)


def value(path: str, name: str) -> Any:
    """Of a constant, or of a class's field where the name has a dot."""
    body: list[ast.stmt] = parsed(path).body
    *owner, field = name.split(".")
    for each in owner:
        (body,) = (n.body for n in body if isinstance(n, ast.ClassDef) and n.name == each)
    names = {}
    for node in body if not owner else [*parsed(path).body, *body]:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        target = node.target if isinstance(node, ast.AnnAssign) else target
        if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign):
            names[target.id] = node.value
    return _computed(names[field], names)


def _computed(node: ast.expr | None, names: dict[str, Any]) -> Any:
    """A number, a name of one, or what is reckoned from them."""
    match node:
        case ast.Constant(value=number):
            return number
        case ast.Call(func=ast.Name(id="Field"), args=[default]):
            return _computed(default, names)
        case ast.Name(id=name):
            return _computed(names[name], names)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _computed(left, names) * _computed(right, names)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _computed(left, names) ** _computed(right, names)
        case ast.BinOp(left=left, op=ast.LShift(), right=right):
            return _computed(left, names) << _computed(right, names)
    raise AssertionError(f"not a number: {ast.unparse(node) if node else node}")
