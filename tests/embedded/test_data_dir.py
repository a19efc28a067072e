from __future__ import annotations

import stat
from pathlib import Path

import pytest

from embedded import data_dir
from embedded.process import CannotStart


def test_second_server_is_refused_by_name(tmp_path: Path) -> None:
    with (
        data_dir.locked(tmp_path / "data"),
        pytest.raises(CannotStart, match=r"already in use by another server \(pid \d+\)"),
        data_dir.locked(tmp_path / "data"),
    ):
        pass
    with data_dir.locked(tmp_path / "data"):
        pass


def test_directory_is_made_private(tmp_path: Path) -> None:
    with data_dir.locked(tmp_path / "data"):
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_killed_server_is_remembered(tmp_path: Path) -> None:
    with data_dir.locked(tmp_path) as was_killed:
        assert not was_killed
    with data_dir.locked(tmp_path) as was_killed:
        assert not was_killed
    (tmp_path / "lock").write_text("12345\n")
    with data_dir.locked(tmp_path) as was_killed:
        assert was_killed


def test_full_disk_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_dir, "MIN_FREE_BYTES", 1 << 60)
    with (
        pytest.raises(CannotStart, match="MiB left; at least"),
        data_dir.locked(tmp_path),
    ):
        pass


def test_unusable_directory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CannotStart, match="cannot write to"),
        data_dir.locked(tmp_path / "file" / "data"),
    ):
        pass
