"""Makes sure that a base's files are on this machine. The importing is done by another process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from storage.models import base_models
from storage.models.base_models import BaseModel
from text.chat_template import ChatTemplate
from text.messages import ChatTemplateError
from text.tokenizer import TokenizerError
from worker.endings import Setback

_POLL_S = 0.2

log = structlog.get_logger()


class Bases:
    """Remembers what was found ready, so that only the first job on a base asks the importer."""

    def __init__(self, bases_dir: Path, log_dir: Path) -> None:
        self.folder = bases_dir.resolve()
        self._log_dir = log_dir
        self._ready: set[BaseModel] = set()

    def path(self, base: BaseModel, check_stopping: Callable[[], None]) -> Path:
        """The folder with the base's files, imported first if need be.

        Calls `check_stopping` while it waits, which may raise. Raises Setback.
        """
        path = base_models.path(self.folder, base)
        if base not in self._ready or not path.exists():
            self._import(base, check_stopping)
            self._ready.add(base)
        return path

    def _import(self, base: BaseModel, check_stopping: Callable[[], None]) -> None:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        log_file = self._log_dir / "importer.log"
        command = [sys.executable, "-m", "modeling.importer", base.id]
        command += ["--bases-dir", str(self.folder)]
        command += ["--source", base.source, "--revision", base.revision]
        with log_file.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            while True:
                check_stopping()
                try:
                    code = process.wait(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
        if code != 0:
            last_line = log_file.read_text(errors="replace").strip().rpartition("\n")[2]
            raise Setback(
                f"The base model {base.id} cannot be made ready: {last_line}", code="server_error"
            )


def read_config(base: BaseModel, path: Path) -> dict[str, Any]:
    """The base's `config.json`. Raises Setback."""
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(base, "config.json", error) from error
    return config


def read_template(base: BaseModel, path: Path) -> ChatTemplate:
    """The base's tokenizer and chat template. Raises Setback."""
    try:
        return ChatTemplate.load(path, document_end=base.document_end)
    except (OSError, ValueError, ChatTemplateError, TokenizerError) as error:
        raise _unusable(base, "tokenizer or chat template", error) from error


def _unusable(base: BaseModel, part: str, error: Exception) -> Setback:
    # The error names paths of this machine, which are nobody's business but the operator's.
    log.error("base.unusable", base=base.id, error=str(error))
    text = f"The {part} of the base model {base.id} cannot be read on this worker"
    return Setback(f"{text}; its log says why", code="server_error")
