from __future__ import annotations

import json
from pathlib import Path

from tests.client.fake_api import MODEL, FakeApi

from .conftest import Run


def test_list_and_show(luthier: Run, api: FakeApi) -> None:
    assert MODEL in luthier("models", "list").stdout
    listed = json.loads(luthier("models", "list", "--json").stdout)
    assert listed["data"] == [api.models[MODEL]]
    assert json.loads(luthier("models", "show", MODEL, "--json").stdout) == api.models[MODEL]


def test_delete(luthier: Run, api: FakeApi) -> None:
    assert luthier("models", "delete", MODEL).exit_code == 0
    assert api.models == {}


def test_download_writes_a_directory_and_refuses_a_second_time(
    luthier: Run, tmp_path: Path
) -> None:
    target = tmp_path / "adapter"
    assert luthier("models", "download", MODEL, str(target)).stdout == f"Wrote {target}\n"
    assert (target / "adapter_config.json").exists()
    result = luthier("models", "download", MODEL, str(target))
    assert result.exit_code == 1
    assert result.stderr == f"Error: {target} exists already\n"
