from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataset.lint.catalogue import CATALOGUE
from dataset.lint.linter import LintOptions, lint
from dataset.mending.mender import MendReport, NotMendable, mend, mended_codes
from dataset.mending.rows import DROPPED
from tests.dataset.lint.rows import chat, chats, codes, said
from tests.dataset.lint.test_codes import FAULTY
from tests.factories import jsonl

MENDED = {code.id: code.mended_by for code in CATALOGUE if code.mended_by}
OF_TOKENS = ("W303", "W304")


def mended(
    folder: Path, content: Any, validation: Any = None, **options: Any
) -> tuple[MendReport, Path]:
    path, out = folder / "rows.jsonl", folder / "out.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else jsonl(content))
    before = path.read_bytes()
    other = None
    if validation is not None:
        other = folder / "validation.jsonl"
        other.write_bytes(jsonl(validation))
    report = mend(path, out, other, **options)
    assert path.read_bytes() == before
    assert not list(folder.glob(".*"))
    return report, out


@pytest.mark.parametrize("code", [code for code in MENDED if code not in OF_TOKENS])
def test_a_mended_file_is_free_of_what_was_mended(tmp_path: Path, code: str) -> None:
    faulty, _ = FAULTY[code]
    content, validation = faulty if isinstance(faulty, tuple) else (faulty, None)
    report, out = mended(tmp_path, content, validation, codes=mended_codes([code]))
    other = tmp_path / "validation.jsonl" if validation is not None else None
    left = lint(out, other, LintOptions(codes=frozenset({code})))
    if code == "E101":
        # What is no JSON at all stays as it is.
        assert out.read_bytes().splitlines()[-1] == b'{"messages": oops}'
        return
    assert codes(left) == set()
    assert report.dropped[code] + report.changed[code] > 0
    assert (report.dropped[code] > 0) == (code in DROPPED)
    assert report.num_rows == len(out.read_bytes().splitlines())


def test_what_only_people_should_decide_is_mended_only_if_asked(tmp_path: Path) -> None:
    rows = [*chats(), chat(5), chat(500, answer="Is that so? ")]
    report, out = mended(tmp_path, rows)
    assert (report.changed, report.dropped) == ({"W401": 1}, {})
    assert report.num_rows == 102
    assert json.loads(out.read_bytes().splitlines()[-1])["messages"][1]["content"] == "Is that so?"
    again = mend(tmp_path / "rows.jsonl", out, codes=mended_codes(all_of_them=True))
    assert again.dropped == {"W201": 1}
    # Lines that nothing was found in stay as they are, to the byte.
    assert out.read_bytes().startswith(jsonl(chats()))


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},]},', None),
        (b"{'messages': [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]}", None),
    ],
)  # fmt: skip
def test_commas_and_quotes_are_set_right(tmp_path: Path, line: bytes, row: Any) -> None:
    report, out = mended(tmp_path, jsonl(chats()) + line, codes=mended_codes(["E101"]))
    assert report.changed == {"E101": 1}
    assert json.loads(out.read_bytes().splitlines()[-1]) == said(("user", "a"), ("assistant", "b"))


def test_a_file_of_another_form_is_converted(tmp_path: Path) -> None:
    report, out = mended(
        tmp_path, [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(10)]
    )
    assert report.changed["W120"] == 10
    assert json.loads(out.read_bytes().splitlines()[3]) == said(
        ("user", "Say 3."), ("assistant", "It is 3.")
    )


def test_what_cannot_be_converted_is_never_lost_silently(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Say {i}.", "output": f"It is {i}." if i != 4 else ""} for i in range(10)
    ]
    with pytest.raises(
        NotMendable, match=r"1 rows cannot be converted.* line 5: its answer is empty"
    ):
        mended(tmp_path, rows)
    assert not (tmp_path / "out.jsonl").exists()
    report = mend(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", drops_unmapped=True)
    assert (report.num_rows, report.dropped) == (9, {"E104": 1})


def test_a_file_is_never_mended_in_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(chats()))
    with pytest.raises(NotMendable, match="never mended in place"):
        mend(path, path)


def test_several_mends_of_one_row(tmp_path: Path) -> None:
    row = said(("user", "a\r\nb"), ("user", "c"), ("assistant", "Ask jo.doe@mail.org. "))
    report, out = mended(tmp_path, [*chats(), row], codes=mended_codes(all_of_them=True))
    assert report.changed == {"W121": 1, "W401": 1, "W402": 1, "W602": 1}
    last = json.loads(out.read_bytes().splitlines()[-1])
    assert last == said(("user", "a\nb\n\nc"), ("assistant", "Ask [EMAIL]."))


def test_codes_that_nothing_mends() -> None:
    with pytest.raises(ValueError, match="nothing mends 'W203'"):
        mended_codes(["W203"])
