"""The laws of the house that no linter knows: what is loaded, how large files and folders are, whose a name is.

The layers themselves are import-linter's contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())
SERVERS = PROJECT["tool"]["importlinter"]["root_packages"]
EVERYWHERE = [*SERVERS, "bench", "client/luthier", "examples", "tests"]

MAX_LINES = 400
MAX_FILES = 20
"""Beside each other, `__init__.py` included."""


def python_files(folders: list[str]) -> list[Path]:
    found = [path for folder in folders for path in (HOUSE / folder).rglob("*.py")]
    assert len(found) > 100
    return found


# The control plane starts in a moment and fits a small machine, because it loads no model library.
@pytest.mark.parametrize(
    "module",
    [
        "api.app",
        "worker.tasks",
        "errands.tasks",
        "embedded.stack",
        "storage.queue",
        "training.checkpoint_folder",
        "training.messages",
        "luthier.cli",
    ],
)
def test_importing_the_control_plane_loads_no_torch(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_is_too_long_to_read() -> None:
    lines = {
        str(path.relative_to(HOUSE)): path.read_bytes().count(b"\n")
        for path in python_files(EVERYWHERE)
    }
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_no_folder_has_too_many_files_to_see() -> None:
    counts: dict[str, int] = defaultdict(int)
    for path in python_files(EVERYWHERE):
        counts[str(path.parent.relative_to(HOUSE))] += 1
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_a_class_has_its_name_alone() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in python_files(SERVERS):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(HOUSE)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_the_published_client_knows_nothing_of_the_server() -> None:
    imported = set()
    for path in (HOUSE / "client" / "luthier").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
    assert "openai" in imported
    assert imported & set(SERVERS) == set()


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md"]
)
def test_documents_name_files_that_are_there(document: str) -> None:
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", (HOUSE / document).read_text())
    assert [path for path in named if not (HOUSE / path).exists()] == []


def test_every_folder_says_what_lives_in_it() -> None:
    silent = [
        str(path.parent.relative_to(HOUSE))
        for path in python_files(SERVERS)
        if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_bytes()))
    ]
    assert silent == []
