"""`python -m modeling.insight`: what it is asked, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foundation import leash
from modeling.artifacts import lora
from modeling.insight import __main__ as process
from modeling.insight import samples

from .parts import adapter, rows


def request(tmp_path: Path, base_path: Path, parts: list[dict[str, Any]], **more: Any) -> Path:
    for number in range(2):
        lora.write(tmp_path / str(number), adapter(base_path, seed=number))
    folders = [
        {"name": f"step {n}", "folder": str(tmp_path / str(n)), "kind": "lora"} for n in range(2)
    ]
    lines = [
        json.dumps({"name": row.name, "ids": row.ids, "weights": row.weights}) for row in rows()
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    asked = {
        "base": {"id": "tiny-random", "source": f"directory:{base_path}", "revision": "a/1"},
        "bases_dir": str(tmp_path / "bases"),
        "kept_dir": str(tmp_path / "kept"),
        "model": folders[1],
        "checkpoints": folders[:1],
        "parts": parts,
        **more,
    }
    (tmp_path / "request.json").write_text(json.dumps(asked), encoding="utf-8")
    return tmp_path / "request.json"


def test_each_part_is_told_as_it_is_done(
    tmp_path: Path, base_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(samples, "NUM_SAMPLES", 4)
    monkeypatch.setattr(samples, "NUM_TOKENS", 6)
    # Neither is this process to be slower, nor to end with its stdin.
    monkeypatch.setattr(os, "nice", lambda _: 0)
    with_rows = {"rows": str(tmp_path / "rows.jsonl")}
    parts: list[dict[str, Any]] = [{"part": p} for p in ("weights", "subspaces", "samples")]
    parts += [{"part": "intruders", "num_blocks": 1}, {"part": "prompts", **with_rows}]
    parts += [{"part": p, **with_rows} for p in ("tokens", "layers", "ablation", "dial")]
    assert process.main(str(request(tmp_path, base_path, parts))) == 0
    news = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert news[-1] == {"end": True}
    done = [each for each in news if "done" in each]
    assert [each["part"] for each in done] == [part["part"] for part in parts]
    assert all(each["seconds"] >= 0 for each in done)
    assert {each["part"] for each in news[:-1]} == {part["part"] for part in parts}
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["tiny-random@a_1"]


def test_what_has_no_answer_says_why(
    tmp_path: Path, base_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "nice", lambda _: 0)
    path = request(tmp_path, base_path, [{"part": "subspaces"}], checkpoints=[])
    assert process.main(str(path)) == 0
    skipped, end = capsys.readouterr().out.splitlines()
    assert json.loads(skipped)["skipped"].startswith("there is one checkpoint only")
    assert json.loads(end) == {"end": True}
    (tmp_path / "1" / "adapter_model.safetensors").write_bytes(b"nothing")
    assert process.main(str(path)) == 0
    (failed,) = capsys.readouterr().out.splitlines()
    assert "adapter_model.safetensors" in json.loads(failed)["failed"]


@pytest.mark.slow
def test_it_ends_with_whoever_started_it(tmp_path: Path, base_path: Path) -> None:
    path = request(tmp_path, base_path, [{"part": "neutral"}])
    started = subprocess.Popen(
        [sys.executable, "-m", "modeling.insight", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, leash.ENV: "1"},
    )
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.close()
    assert started.wait(60) == 1
    started.stdout.close()
