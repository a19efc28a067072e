"""Fields that mean the same in the bodies of several resources."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError


def _refuse_nul(value: object) -> object:
    # PostgreSQL stores every character but this one.
    if isinstance(value, str) and "\0" in value:
        raise PydanticCustomError("nul", "the character NUL is not allowed.")
    return value


NoNul = BeforeValidator(_refuse_nul)
Name = Annotated[str, StringConstraints(min_length=1, max_length=256), NoNul]
"""What somebody calls a thing, or the id of one."""
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64), NoNul],
        Annotated[str, StringConstraints(max_length=512), NoNul],
    ],
    Field(max_length=16),
]
