"""Constraints compiled on the spot, for the engine."""

from __future__ import annotations

from typing import Any

from serving.engine.constraints import Constraint, GrammarVocabulary
from serving.grammars.compiler import grammar_of
from serving.grammars.source import GrammarSource


def of_source(vocabulary: GrammarVocabulary, source: GrammarSource) -> Constraint:
    return Constraint(vocabulary, grammar_of(vocabulary.tokens, source.kind, source.text))


def of_schema(vocabulary: GrammarVocabulary, schema: dict[str, Any]) -> Constraint:
    return of_source(vocabulary, GrammarSource.json_schema(schema))


def of_regex(vocabulary: GrammarVocabulary, regex: str) -> Constraint:
    return of_source(vocabulary, GrammarSource("regex", regex))


def of_lark(vocabulary: GrammarVocabulary, lark: str) -> Constraint:
    return of_source(vocabulary, GrammarSource("lark", lark))
