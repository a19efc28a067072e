"""The catalogue of base models: which bases there are, where their weights come from, their other names."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from foundation.errors import InvalidRequest, LuthierError

BUILT_IN = Path(__file__).with_name("base_models.toml")
ADDED = "base_models.toml"

# An id becomes a folder's name and part of a tuned model's name, so neither "/" nor ":" may stand in it.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SOURCE = re.compile(
    r"package:[A-Za-z_]\w*"
    r"|builtin:tiny-random"
    r"|directory:/[^\0\n]+"
    r"|huggingface:[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
)


log = structlog.get_logger()


class BadCatalogue(LuthierError):
    """The catalogue's file cannot be read; the message names the file and the entry."""


@dataclass(frozen=True)
class BaseModel:
    __pydantic_config__ = ConfigDict(extra="forbid")

    id: str
    source: str
    """`package:<import name>`, `directory:/<path>`, `huggingface:<org>/<name>` or `builtin:tiny-random`."""
    revision: str = "main"
    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_seq_len: Annotated[int, Field(strict=True, ge=1, lt=1 << 31)] = 2048
    """Tokens, prompt and reply together."""
    family: str = "llama"
    """`llama`, `qwen` or another; the automatic learning rate depends on it."""
    license: str | None = None
    """Under which its weights may be used and what is made of them, as SPDX names it; for the cards of exports."""
    document_end: str | None = None
    """The token that ended each text when the base was made, where that is not the end of a chat's turn."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise InvalidRequest(
                f"{self.id!r} cannot name a base: use letters, digits, '.', '_' and '-'", param="id"
            )
        if not _SOURCE.fullmatch(self.source):
            raise InvalidRequest(
                f"{self.source!r} is no source of weights: use package:NAME, directory:/PATH or "
                "huggingface:ORG/NAME",
                param="source",
            )


_ENTRY = TypeAdapter(BaseModel)


class Catalogue:
    """The bases by id and by alias."""

    def __init__(self, bases: list[BaseModel], aliases: Mapping[str, str]) -> None:
        self._bases = {base.id: base for base in bases}
        self._aliases = {alias: base.id for base in bases for alias in base.aliases}
        for alias, base_id in aliases.items():
            if base_id not in self._bases:
                known = ", ".join(sorted(self._bases))
                raise BadCatalogue(
                    f"the alias {alias}={base_id} names no known base; there are: {known}"
                )
            self._aliases[alias] = base_id

    @classmethod
    def load(cls, data_dir: Path | None, aliases: Mapping[str, str]) -> Catalogue:
        """The built-in bases, those added below `data_dir`, and the operator's aliases."""
        bases = _read(BUILT_IN)
        if data_dir is not None and (added := data_dir / ADDED).exists():
            bases += _read(added)
        return cls(bases, aliases)

    def get(self, name: str) -> BaseModel | None:
        """By id or alias."""
        return self._bases.get(self._aliases.get(name, name))

    def all(self) -> list[BaseModel]:
        return list(self._bases.values())

    @property
    def aliases(self) -> Mapping[str, str]:
        """Alias -> base id."""
        return dict(self._aliases)


class WatchedCatalogue:
    """The catalogue of a running process: read once, and again when somebody has changed what was added.

    What cannot be read then is logged, once, and the bases stay as they were.
    """

    def __init__(self, data_dir: Path, aliases: Mapping[str, str]) -> None:
        """Raises BadCatalogue."""
        self._data_dir = data_dir
        self._aliases = aliases
        self._seen = _stamp(data_dir / ADDED)
        self._catalogue = Catalogue.load(data_dir, aliases)

    def now(self) -> Catalogue:
        # The stamp is taken before the file is read: a change in between is found the next time.
        stamp = _stamp(self._data_dir / ADDED)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._catalogue = Catalogue.load(self._data_dir, self._aliases)
            except BadCatalogue as error:
                log.error("catalogue.unreadable", error=str(error))
        return self._catalogue


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Another one for each state of the file, as long as nobody turns the clock back."""
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def path(bases_dir: Path, base: BaseModel) -> Path:
    """Where the base's files lie once it is imported."""
    if base.source.startswith("directory:"):
        return Path(base.source.removeprefix("directory:"))
    return bases_dir / base.id


def add(data_dir: Path, base: BaseModel) -> None:
    """Write an entry into DATA/base_models.toml; an entry of the same id is replaced. Raises InvalidRequest."""
    base = _base(base.id, {k: v for k, v in asdict(base).items() if k != "id"})
    target = data_dir / ADDED
    bases = {b.id: b for b in (_read(target) if target.exists() else [])}
    bases[base.id] = base
    data_dir.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text("\n".join(_render(b) for b in bases.values()), encoding="utf-8")
    temporary.replace(target)


def _render(base: BaseModel) -> str:
    # JSON's strings are TOML's basic strings.
    lines = [f"[{json.dumps(base.id)}]"]
    for name in ("source", "revision", "max_seq_len", "family"):
        lines.append(f"{name} = {json.dumps(getattr(base, name))}")
    for name in ("license", "document_end"):
        if (value := getattr(base, name)) is not None:
            lines.append(f"{name} = {json.dumps(value)}")
    lines.append(f"aliases = {json.dumps(list(base.aliases))}")
    return "\n".join(lines) + "\n"


def _read(file: Path) -> list[BaseModel]:
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8"))
        return [_base(name, entry) for name, entry in entries.items()]
    except (OSError, ValueError, InvalidRequest) as error:
        raise BadCatalogue(f"{file} is no catalogue of base models: {error}") from error
    except RecursionError as error:
        raise BadCatalogue(f"{file} has values that are nested too deeply") from error


def _base(name: str, entry: Any) -> BaseModel:
    if not isinstance(entry, dict) or "id" in entry:
        raise InvalidRequest(f"[{name}] has to be a table, whose name is the base's id")
    # Files of earlier versions tell the width, too, which is in the base's own config.json.
    fields = {key: value for key, value in entry.items() if key != "hidden_size"}
    try:
        return _ENTRY.validate_python({**fields, "id": name})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"[{name}] {where}: {first['msg']}", param=where) from error
