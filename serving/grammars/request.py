"""What of a request says how the reply shall look: OpenAI's `response_format`, and `luthier.grammar`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from foundation.errors import InvalidRequest
from serving.requests import Flag, GenerationRequest, Name, Text, Wire, at_most

from .source import GrammarSource

MAX_FIELDS = 8
"""Of an object of Luthier's own: more than it has, so that a few misspelt ones are all told of."""


class NamedSchema(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: Name
    description: Text | None = None
    schema_: Annotated[Wire | None, Field(alias="schema")] = None
    strict: Flag | None = None
    """Replies are held to the schema in any case."""


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    def source(self) -> GrammarSource | None:
        """Raises `InvalidRequest`."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return GrammarSource.json_object()
        named = self.json_schema
        if named is None:
            raise InvalidRequest(
                "Missing required parameter: 'response_format.json_schema'.",
                param="response_format.json_schema",
                code="missing_required_parameter",
            )
        what = f"response_format '{named.name}'"
        if named.schema_ is None:
            return GrammarSource.json_object(what=what)
        return GrammarSource.json_schema(named.schema_, what=what)


class Grammar(BaseModel):
    """`definition` is a regular expression, a grammar in llguidance's dialect of Lark, or a JSON schema."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["regex", "lark", "json_schema"]
    definition: Any

    def source(self) -> GrammarSource:
        """Raises `InvalidRequest`."""
        told: dict[str, Any] = {"param": "luthier.grammar", "what": "luthier.grammar"}
        expected = "an object" if self.type == "json_schema" else "a string"
        if isinstance(self.definition, dict) and self.type == "json_schema":
            return GrammarSource.json_schema(self.definition, **told)
        if not isinstance(self.definition, str) or self.type == "json_schema":
            raise InvalidRequest(
                f"Invalid type for 'luthier.grammar.definition': expected {expected}.",
                param="luthier.grammar.definition",
                code="invalid_type",
            )
        is_lark = self.type == "lark"
        return GrammarSource(self.type, self.definition, shows_special=is_lark, **told)


class Extension(BaseModel):
    """What only Luthier has."""

    model_config = ConfigDict(extra="forbid")

    grammar: Annotated[Grammar | None, at_most(MAX_FIELDS)] = None


class ConstrainedRequest(GenerationRequest):
    response_format: ResponseFormat | None = None
    luthier: Annotated[Extension | None, at_most(MAX_FIELDS)] = None

    @property
    def grammar_source(self) -> GrammarSource | None:
        """What the reply is held to. Raises `InvalidRequest`."""
        of_format = self.response_format and self.response_format.source()
        of_grammar = self.luthier and self.luthier.grammar and self.luthier.grammar.source()
        if of_format and of_grammar:
            raise InvalidRequest(
                "'luthier.grammar' and 'response_format' cannot both say how the reply shall look.",
                param="luthier.grammar",
            )
        return of_format or of_grammar or None

    @property
    def shows_special(self) -> bool:
        """Special tokens are part of the text where somebody wrote a grammar that spells them."""
        source = self.grammar_source
        return source is not None and source.shows_special
