"""The formula of a multi grader: `0.7 * exact + 0.3 * max(bleu, 0.5)`.

Read by a parser of its own, never evaluated as code. Numbers are floats, so that what grows past every bound
ends in an error at once; length, depth and number of terms are bounded.

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/") signed)*
    signed  = ("+" | "-") signed | power
    power   = atom [("^" | "**") signed]
    atom    = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_CHARS = 4096
MAX_TOKENS = 512
MAX_DEPTH = 32

Value = Callable[[Mapping[str, float]], float]


class FormulaError(Exception):
    """The formula cannot be read, or has no value for these numbers."""


_FUNCTIONS: dict[str, Callable[[list[float]], float]] = {
    "min": min,
    "max": max,
    "abs": lambda values: abs(values[0]),
    # Floats again: whole numbers of Python grow without bounds.
    "floor": lambda values: float(math.floor(values[0])),
    "ceil": lambda values: float(math.ceil(values[0])),
    "exp": lambda values: math.exp(values[0]),
    "sqrt": lambda values: math.sqrt(values[0]),
    "log": lambda values: math.log(values[0]),
}
_OF_MANY = ("min", "max")

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)|(?P<op>\*\*|[-+*/^(),]))"
)


@dataclass(frozen=True)
class Formula:
    names: frozenset[str]
    """The graders it speaks of."""
    _value: Value

    def evaluate(self, values: Mapping[str, float]) -> float:
        """Raises FormulaError: no such name, division by zero, a result that is no finite number."""
        try:
            value = float(self._value(values))
        except KeyError as error:
            raise FormulaError(f"there is no grader {error.args[0]!r}") from None
        except (ArithmeticError, ValueError) as error:
            raise FormulaError(str(error)) from None
        if not math.isfinite(value):
            raise FormulaError("the result is no finite number")
        return value


def parse(text: str) -> Formula:
    """Raises FormulaError, which tells the place."""
    if len(text) > MAX_CHARS:
        raise FormulaError(f"longer than {MAX_CHARS} characters")
    reader = _Reader(_tokens(text))
    value = reader.sum(0)
    if reader.token != _END:
        raise FormulaError(f"{reader.token[1]!r} is not expected {reader.where()}")
    return Formula(frozenset(reader.names), value)


Token = tuple[str, str, int]
"""Kind, text, place."""
_END: Token = ("end", "", -1)


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise FormulaError(f"{text[at:].lstrip()[:1]!r} is not expected at character {at}")
        assert match.lastgroup is not None
        tokens.append((match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        at = match.end()
        if len(tokens) > MAX_TOKENS:
            raise FormulaError(f"more than {MAX_TOKENS} terms")
    return tokens


class _Reader:
    """Recursive descent: one method a line of the grammar."""

    def __init__(self, tokens: list[Token]) -> None:
        self.names: set[str] = set()
        self._tokens = iter(tokens)
        self.token = next(self._tokens, _END)

    def where(self) -> str:
        return "at the end" if self.token == _END else f"at character {self.token[2]}"

    def sum(self, depth: int) -> Value:
        value = self._product(depth)
        while op := self._take("+", "-"):
            value = _both(_OPERATIONS[op], value, self._product(depth))
        return value

    def _product(self, depth: int) -> Value:
        value = self._signed(depth)
        while op := self._take("*", "/"):
            value = _both(_OPERATIONS[op], value, self._signed(depth))
        return value

    def _signed(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise FormulaError(f"nested deeper than {MAX_DEPTH} levels")
        op = self._take("+", "-")
        if op is None:
            return self._power(depth)
        value = self._signed(depth + 1)
        return value if op == "+" else lambda values: -value(values)

    def _power(self, depth: int) -> Value:
        value = self._atom(depth)
        if self._take("^", "**"):
            return _both(math.pow, value, self._signed(depth + 1))
        return value

    def _atom(self, depth: int) -> Value:
        kind, text, _ = self.token
        if self._take("("):
            return self._closed(self.sum(depth + 1))
        if kind not in ("number", "name"):
            raise FormulaError(f"{text!r} is not expected {self.where()}" if text else "cut short")
        self._next()
        if kind == "number":
            number = float(text)
            return lambda _: number
        if self._take("("):
            return self._call(text, depth)
        self.names.add(text)
        return lambda values: values[text]

    def _call(self, name: str, depth: int) -> Value:
        if name not in _FUNCTIONS:
            raise FormulaError(f"there is no function {name!r}")
        function, arguments = _FUNCTIONS[name], [self.sum(depth + 1)]
        while self._take(","):
            arguments.append(self.sum(depth + 1))
        if len(arguments) > 1 and name not in _OF_MANY:
            raise FormulaError(f"{name}() takes one argument")
        return self._closed(lambda values: function([value(values) for value in arguments]))

    def _closed(self, value: Value) -> Value:
        if not self._take(")"):
            raise FormulaError(f"')' is missing {self.where()}")
        return value

    def _take(self, *texts: str) -> str | None:
        kind, text, _ = self.token
        if kind != "op" or text not in texts:
            return None
        self._next()
        return text

    def _next(self) -> None:
        self.token = next(self._tokens, _END)


_OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def _both(operation: Callable[[float, float], float], left: Value, right: Value) -> Value:
    return lambda values: operation(left(values), right(values))
