from __future__ import annotations

import json
from pathlib import Path

from luthier.cli.files import decode_results
from tests.client.fake_api import FakeApi

from .conftest import Run

CSV = b"step,train_loss\n1,2.5\n"


def file(file_id: str, **fields: object) -> dict[str, object]:
    return {
        "id": file_id,
        "object": "file",
        "bytes": 2,
        "created_at": 1_700_000_000,
        "filename": "data.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
    } | fields


def test_upload_sends_the_files_bytes_and_name(luthier: Run, api: FakeApi, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"messages": []}\n')
    result = luthier("files", "upload", str(path), "--json")
    assert result.exit_code == 0, result.output
    sent = json.loads(result.stdout)
    assert (sent["filename"], sent["purpose"]) == ("data.jsonl", "fine-tune")
    assert api.contents[sent["id"]] == path.read_bytes()


def test_list_shows_all_columns_uncut(luthier: Run, api: FakeApi) -> None:
    name = "a-very-long-name-[of]-a-file-" * 5
    api.files = {f"file-{n}": file(f"file-{n}", filename=name) for n in range(3)}
    result = luthier("files", "list")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["id", "filename", "purpose", "bytes", "status", "created_at"]
    assert [line.split()[:3] for line in lines[1:]] == [
        [f"file-{n}", name, "fine-tune"] for n in range(3)
    ]


def test_list_is_filtered_and_limited(luthier: Run, api: FakeApi) -> None:
    api.files = {f"file-{n}": file(f"file-{n}") for n in range(5)}
    api.files["file-r"] = file("file-r", purpose="fine-tune-results")
    result = luthier("files", "list", "--purpose", "fine-tune", "--limit", "2", "--json")
    assert [f["id"] for f in json.loads(result.stdout)["data"]] == ["file-0", "file-1"]


def test_show_and_delete(luthier: Run, api: FakeApi) -> None:
    api.files = {"file-1": file("file-1", filename="\x1b[31mred")}
    result = luthier("files", "show", "file-1")
    assert "filename    [31mred\n" in result.stdout
    assert luthier("files", "delete", "file-1").stdout == "Deleted file-1\n"
    assert api.files == {}


def test_download_of_results_is_plain_csv(luthier: Run, api: FakeApi, tmp_path: Path) -> None:
    api.files = {"file-1": file("file-1", purpose="fine-tune-results", filename="metrics.csv")}
    api.contents = {"file-1": CSV}
    target = tmp_path / "out.csv"
    assert luthier("files", "download", "file-1", str(target)).exit_code == 0
    assert target.read_bytes() == CSV
    assert luthier("files", "download", "file-1").stdout == "Wrote metrics.csv\n"
    assert Path("metrics.csv").read_bytes() == CSV


def test_results_that_come_plain_stay_so() -> None:
    assert decode_results(CSV) == CSV


def test_download_never_leaves_the_directory(luthier: Run, api: FakeApi) -> None:
    api.contents = {"file-1": b"x"}
    for name in ("../../evil", "..\\evil", "/tmp/evil"):
        api.files = {"file-1": file("file-1", filename=name)}
        assert luthier("files", "download", "file-1").stdout == "Wrote evil\n"
    api.files = {"file-1": file("file-1", filename="..")}
    assert luthier("files", "download", "file-1").exit_code == 0
    assert {path.name for path in Path().iterdir()} == {"evil", "file-1"}
