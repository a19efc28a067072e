from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.gateway import event_stream


async def pieces(content: bytes, cut: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), cut):
        yield content[start : start + cut]


async def cut_into_events(content: bytes, cut: int) -> list[bytes]:
    return [event async for event in event_stream.events(pieces(content, cut))]


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.sampled_from(["data: {}", ": comment", "data: ü\ndata: b", "event: x"])),
    end=st.sampled_from(["\n\n", "\r\n\r\n"]),
    cut=st.integers(1, 9),
)
def test_events_are_cut_where_they_end(texts: list[str], end: str, cut: int) -> None:
    content = "".join(text + end for text in texts).encode()
    assert asyncio.run(cut_into_events(content, cut)) == [text.encode() for text in texts]


async def test_a_last_event_without_its_end_is_not_lost() -> None:
    assert await cut_into_events(b"data: 1\n\ndata: 2", 3) == [b"data: 1", b"data: 2"]
    assert await cut_into_events(b"data: 1\n\n\n", 3) == [b"data: 1"]


async def test_an_event_without_an_end_is_not_held_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 100)
    with pytest.raises(event_stream.EventTooLong):
        await cut_into_events(b"x" * 1000, 10)
