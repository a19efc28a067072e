from __future__ import annotations

from pathlib import Path

import pytest

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
