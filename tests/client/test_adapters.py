"""Downloading an adapter; the server may be broken or hostile."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import openai
import pytest

from luthier import AdapterArchiveError, Luthier

from .fake_api import KEY, MODEL, FakeApi, adapter_tar, member, tar


def test_download_writes_the_files_and_nothing_else(
    api: FakeApi, client: Luthier, tmp_path: Path
) -> None:
    api.archive = adapter_tar(member("README.md", b"# Adapter\n"))
    target = client.adapters.download(MODEL, tmp_path / "new" / "adapter")
    assert sorted(file.name for file in target.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (target / "adapter_model.safetensors").read_bytes() == bytes(range(256)) * 8192
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"),
        member("/tmp/evil"),
        member("sub/file"),
        member("..\\evil"),
        member("C:evil"),
        member(".."),
        member("a\nb"),
        member("sub", type=tarfile.DIRTYPE),
        member("link", type=tarfile.SYMTYPE),
        member("hard", type=tarfile.LNKTYPE),
        member("device", type=tarfile.CHRTYPE),
        member("fifo", type=tarfile.FIFOTYPE),
        member("adapter_config.json"),
    ],
    ids=lambda bad: repr(bad[0].name),
)
def test_archive_with_anything_but_plain_files_is_refused(
    api: FakeApi, client: Luthier, tmp_path: Path, bad: Any
) -> None:
    api.archive = adapter_tar(bad)
    with pytest.raises(AdapterArchiveError, match="holds"):
        client.adapters.download(MODEL, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_file_behind_a_link_is_not_written(api: FakeApi, client: Luthier, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    link, _ = member("adapter_config.json", type=tarfile.SYMTYPE)
    link.linkname = str(outside)
    api.archive = tar((link, b""), member("adapter_config.json", b"evil"))
    with pytest.raises(AdapterArchiveError):
        client.adapters.download(MODEL, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "archive",
    [b"", b"no tar" * 1000, adapter_tar()[:-100_000], tar(member("adapter_config.json"))],
    ids=["empty", "no-tar", "cut-off", "no-weights"],
)
def test_archive_that_is_no_adapter_is_refused(
    api: FakeApi, client: Luthier, tmp_path: Path, archive: bytes
) -> None:
    api.archive = archive
    with pytest.raises(AdapterArchiveError):
        client.adapters.download(MODEL, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_kind_have_other_files(
    api: FakeApi, client: Luthier, tmp_path: Path
) -> None:
    api.archive = tar(member("config.json"), member("model.safetensors", b"all"))
    with pytest.raises(AdapterArchiveError, match=r"lacks adapter_config\.json"):
        client.adapters.download(MODEL, tmp_path / "adapter")
    api.archive_kind = "full"
    target = client.adapters.download(MODEL, tmp_path / "model")
    assert {file.name for file in target.iterdir()} == {"config.json", "model.safetensors"}
    api.archive = tar()
    with pytest.raises(AdapterArchiveError, match="is empty"):
        client.adapters.download(MODEL, tmp_path / "nothing")


def test_a_server_that_tells_no_kind_sends_lora(
    api: FakeApi, client: Luthier, tmp_path: Path
) -> None:
    api.archive_kind = None
    assert client.adapters.download(MODEL, tmp_path / "adapter").is_dir()
    api.archive = tar(member("config.json"))
    with pytest.raises(AdapterArchiveError, match=r"lacks adapter_config\.json"):
        client.adapters.download(MODEL, tmp_path / "other")


def test_broken_transfer_is_begun_anew(api: FakeApi, tmp_path: Path) -> None:
    api.drop = 2
    with Luthier(base_url=api.base_url, api_key=KEY, max_retries=2) as client:
        target = client.adapters.download(MODEL, tmp_path / "adapter")
    assert (target / "adapter_config.json").exists()


def test_transfer_that_keeps_breaking_leaves_nothing(
    api: FakeApi, client: Luthier, tmp_path: Path
) -> None:
    api.drop = 1
    with pytest.raises(openai.APIConnectionError, match="broke off"):
        client.adapters.download(MODEL, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_existing_directory_is_left_alone(client: Luthier, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        client.adapters.download(MODEL, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_unknown_model_is_not_found(client: Luthier, tmp_path: Path) -> None:
    with pytest.raises(openai.NotFoundError):
        client.adapters.download("ft:no/such:model", tmp_path / "adapter")
