from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from foundation import garbage
from serving.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--base", "gpt-7"], "there is no base model gpt-7; there are: smollm2"),
        (["--base", "tiny-random", "--host", "0.0.0.0"], "LUTHIER_INTERNAL_KEY"),
        (["--base", "tiny-random", "--host", "example.org"], "LUTHIER_INTERNAL_KEY"),
    ],
)
def test_start_that_makes_no_sense_says_so(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LUTHIER_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("LUTHIER_INTERNAL_KEY", raising=False)
    monkeypatch.setattr("sys.argv", ["serving", *arguments])
    assert main() == 2
    assert words in capsys.readouterr().err


def test_garbage_is_collected_seldom_once_the_base_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking through what is loaded would hold everybody up for some tenths of a second."""
    ready_bases: list[bool] = []

    async def serve(app: Any) -> None:
        async with app.router.lifespan_context(app):
            while not app.state.serving.is_ready:
                await asyncio.sleep(0.01)

    def run(server: uvicorn.Server) -> None:
        asyncio.run(serve(server.config.app))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(
        garbage, "collect_seldom", lambda: ready_bases.append((tmp_path / "bases").exists())
    )
    monkeypatch.setenv("LUTHIER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LUTHIER_SERVING_KV_BYTES", str(1 << 20))
    for name, value in (("OMP_WAIT_POLICY", "passive"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["serving", "--base", "tiny-random"])
    assert main() == 0
    assert ready_bases == [True]
