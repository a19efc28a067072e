"""`luthier lint`, without a server: files of this machine, and bases of a data directory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from dataset.conversion.recognise import recognise
from dataset.conversion.tables import NotConvertible, columns_of
from dataset.lint.linter import LintOptions, lint
from dataset.lint.preview import PreviewedRow, previewed
from dataset.lint.report import LintReport
from dataset.mending.mender import MendReport, NotMendable, mend, mended_codes
from foundation.errors import LuthierError
from foundation.settings import Settings
from storage.models import base_models
from storage.models.base_models import Catalogue
from text.chat_template import ChatTemplate
from text.messages import ChatTemplateError
from text.tokenizer import TokenizerError

REFUSALS = (ValueError, LuthierError, NotMendable, NotConvertible)
"""What the functions below raise besides OSError; the messages are all that there is to tell."""

__all__ = ["LintReport", "MendReport", "PreviewedRow"]


def options(
    *,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    method: str | None,
    base: str | None,
    max_seq_len: int | None,
    data_dir: Path,
    columns: str | None,
    to_chat: bool,
    finds_near: bool,
) -> LintOptions:
    """Raises one of REFUSALS."""
    found = LintOptions.of(
        select,
        ignore,
        method=method,
        columns=columns_of(columns) if columns else None,
        to_chat=to_chat,
        finds_near=finds_near,
    )
    if base is None:
        return found
    template, longest = read_base(base, data_dir)
    return replace(found, template=template, max_seq_len=min(max_seq_len or longest, longest))


def read_base(name: str, data_dir: Path) -> tuple[ChatTemplate, int]:
    """The chat template of a base, which is imported if it is not there yet, and its longest context."""
    settings = Settings(data_dir=data_dir)
    base = Catalogue.load(data_dir, settings.aliases).get(name)
    if base is None:
        raise ValueError(f"there is no base model {name!r}; `luthier bases list` shows them")
    path = base_models.path(settings.bases_dir, base)
    if not path.exists():
        command = [sys.executable, "-m", "modeling.importer", base.id]
        command += ["--bases-dir", str(settings.bases_dir)]
        command += ["--source", base.source, "--revision", base.revision]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last_line = (done.stderr or done.stdout).strip().rpartition("\n")[2]
            raise ValueError(f"the base model {name} cannot be made ready: {last_line}")
    try:
        return ChatTemplate.load(path, document_end=base.document_end), base.max_seq_len
    except (ChatTemplateError, TokenizerError) as error:
        raise ValueError(f"the base model {name} cannot be read: {error}") from None


def look(path: Path, validation: Path | None, of: LintOptions) -> LintReport:
    return lint(path, validation, of)


def write_mended(
    path: Path,
    out: Path,
    validation: Path | None,
    of: LintOptions,
    codes: tuple[str, ...],
    *,
    all_of_them: bool,
) -> MendReport:
    wanted = mended_codes(codes, all_of_them=all_of_them)
    return mend(path, out, validation, of, wanted, drops_unmapped=all_of_them)


def show(path: Path, of: LintOptions, num: int) -> list[PreviewedRow]:
    assert of.template is not None
    if recognise(path, path.name, columns=of.columns, to_chat=of.to_chat) is not None:
        raise ValueError(
            "its rows can be shown once they are converted: write them with --mend OUT"
        )
    return previewed(path, of.template, of.max_seq_len, num, of.method)
