from __future__ import annotations

from pathlib import Path

import pytest

from storage.worker_folder import Folder


def test_live_workers_folder_is_let_be_and_a_dead_ones_taken(tmp_path: Path) -> None:
    first, second = Folder(tmp_path), Folder(tmp_path)
    assert first.name != second.name
    with first.dead() as names:
        assert names == []
    # What a dead worker leaves: its folder, and a lock that nobody holds.
    (tmp_path / "dead-worker").mkdir()
    (tmp_path / "dead-worker" / "lock").touch()
    with first.dead() as names, second.dead() as names_for_another:
        assert names == ["dead-worker"]
        assert names_for_another == []
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([first.name, second.name])
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_dead_folder_stays_when_tidying_up_fails(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "dead-worker").mkdir()
    with pytest.raises(ConnectionError), folder.dead():
        raise ConnectionError
    with folder.dead() as names:
        assert names == ["dead-worker"]
    folder.close()


def test_jobs_folder_is_empty_and_gone_afterwards(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (folder.path / "ftjob-x").mkdir()
    (folder.path / "ftjob-x" / "leftover").touch()
    with folder.job("ftjob-x") as path:
        assert list(path.iterdir()) == []
        assert path.is_absolute()
        (path / "file").touch()
    assert not path.exists()
    with pytest.raises(ConnectionError), folder.job("ftjob-x"):
        raise ConnectionError
    assert not path.exists()
    folder.close()
