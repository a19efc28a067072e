"""`luthier lint` needs no server that runs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.dataset.lint.rows import chat, chats
from tests.factories import jsonl

from .conftest import Run


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([*chats(), chat(500, answer="Is that so?\x1b[2J ")]))
    return path


def test_findings_are_printed_as_a_compiler_does(run: Run, rows: Path) -> None:
    result = run("lint", str(rows), "--ignore", "W404")
    assert result.exit_code == 0, result.output
    assert (
        "W401 line 101, messages[1].content: the answer ends in ' '. Mend: strip it."
        in result.stdout
    )
    assert result.stdout.splitlines()[-1] == "101 rows in rows.jsonl: no errors, 1 warning"


def test_errors_make_it_fail(run: Run, rows: Path) -> None:
    rows.write_bytes(b"[1]\n" + rows.read_bytes())
    result = run("lint", str(rows), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["errors"] == 1


def test_a_mended_copy(run: Run, rows: Path) -> None:
    result = run("lint", str(rows), "--mend", "out.jsonl", "--mend-code", "W201")
    assert result.exit_code == 0, result.output
    assert "W401: 1 changed" in result.stdout
    assert "wrote 101 rows to out.jsonl" in result.stdout
    assert run("lint", "out.jsonl").stdout.splitlines()[-1].endswith("no errors, no warnings")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--select", "X"), "no code begins with 'X'"),
        (("--columns", "a"), "columns must read"),
        (("--base", "none-such"), "there is no base model 'none-such'"),
        (("--mend", "rows.jsonl"), "never mended in place"),
        (("--mend", "out", "--mend-code", "W203"), "nothing mends 'W203'"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    run: Run, rows: Path, options: tuple[str, ...], said: str
) -> None:
    result = run("lint", "rows.jsonl", *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_the_servers_code_it_says_so(
    run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("luthier.cli.lint.import_module", gone)
    result = run("lint", str(rows))
    assert result.exit_code == 1
    assert "which is not installed here" in result.stderr
    assert importlib.util.find_spec("embedded.linting") is not None


def test_rows_as_the_base_sees_them(run: Run, rows: Path, base_path: Path) -> None:
    catalogue = f'[tiny]\nsource = "directory:{base_path}"\nmax_seq_len = 512\n'
    (rows.parent / ".luthier").mkdir()
    assert run("bases", "add", "tiny", "--from", f"directory:{base_path}").exit_code == 0, catalogue
    result = run("lint", str(rows), "--base", "tiny", "--show", "3")
    assert result.exit_code == 0, result.output
    assert "I305 line 1, the first: " in result.stdout
    assert "I305 line 101, the longest: " in result.stdout or ", the longest: " in result.stdout
    assert result.stdout.count("I305") == 3
    assert "I701: " in result.stdout
    assert "\x1b[2J" not in result.stdout
