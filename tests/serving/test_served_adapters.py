"""Adapters over HTTP: fetched when first named, damaged, unknown, prefetched, unloaded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import served_base
from serving.adapters.ref import AdapterRef
from serving.engine.places import Places
from serving.engine.sequence import Sequence
from tests.serving.server import HELLO, MODEL, Running, read_to_end, store_adapter

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_adapter_is_fetched_on_its_first_request(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    refs = [
        store_adapter(running, base_path, tmp_path / n, f"adapter-{n}", s)
        for s, n in enumerate("abcd")
    ]

    async def ask(model: str, headers: dict[str, str]) -> str:
        completion = await running.openai.chat.completions.create(
            model=model, messages=HELLO, max_tokens=16, temperature=0, extra_headers=headers
        )
        assert completion.model == model
        return completion.choices[0].message.content or ""

    texts = await asyncio.gather(
        ask(MODEL, {}), *(ask(ref.id, running.headers(ref)) for ref in refs)
    )
    assert len(set(texts)) == 5
    listed = [model.id async for model in running.openai.models.list()]
    assert set(listed) >= {MODEL, "gpt-4o-mini", *(ref.id for ref in refs)}


async def test_damaged_adapter_is_a_server_error_and_never_cached(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store_adapter(running, base_path, tmp_path / "a", "adapter-damaged")
    other = AdapterRef(ref.id, "0" * 64, ref.size_bytes)
    for _ in range(2):
        with pytest.raises(openai.InternalServerError, match="damaged"):
            await running.openai.chat.completions.create(
                model=ref.id, messages=HELLO, extra_headers=running.headers(other)
            )
    assert ref.id not in running.served.adapters.ids_in_ram


@pytest.mark.parametrize("model", ["adapter-unknown", "gpt-5", "../../etc/passwd", ""])
async def test_unknown_model_is_not_found(running: Running, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await running.openai.chat.completions.create(model=model, messages=HELLO)
    assert caught.value.code == "model_not_found"


async def test_cached_tokens_are_reported_within_one_salt_only(running: Running) -> None:
    async def cached_tokens(salt: str) -> int | None:
        completion = await running.openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "x" * 300}],
            max_tokens=2,
            extra_headers={"x-luthier-cache-salt": salt},
        )
        assert completion.usage is not None
        assert completion.usage.prompt_tokens_details is not None
        return completion.usage.prompt_tokens_details.cached_tokens

    assert await cached_tokens("proj_a") == 0
    assert await cached_tokens("proj_b") == 0
    assert (await cached_tokens("proj_a") or 0) > 300


async def test_prefetched_adapter_is_served_and_unloaded_again(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store_adapter(running, base_path, tmp_path / "a", "adapter-prefetched")
    path = f"/v1/luthier/adapters/{ref.id}"
    body = {"sha256": ref.sha256, "size_bytes": ref.size_bytes}
    reply = await running.http.post(f"{path}/prefetch", json=body)
    assert reply.status_code == 200
    await running.openai.chat.completions.create(model=ref.id, messages=HELLO, max_tokens=2)
    assert ref.id in running.served.engine.stats().loaded_adapter_ids
    reply = await running.http.delete(path)
    assert reply.json()["status"] == "unloaded"
    assert ref.id not in running.served.engine.stats().loaded_adapter_ids
    with pytest.raises(openai.NotFoundError):
        await running.openai.chat.completions.create(model=ref.id, messages=HELLO)


async def test_deleting_an_adapter_ends_what_it_is_at(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store_adapter(running, base_path, tmp_path / "a", "adapter-at-work")
    endless: dict[str, Any] = {"max_tokens": 1900, "logit_bias": {"258": -100}, "stream": True}
    streams = [
        await running.openai.chat.completions.create(
            model=model, messages=HELLO, extra_headers=headers, **endless
        )
        for model, headers in ((ref.id, running.headers(ref)), (MODEL, {}))
    ]
    for stream in streams:
        await anext(aiter(stream))
    await running.http.delete(f"/v1/luthier/adapters/{ref.id}")
    with pytest.raises(openai.APIError, match="deleted while it was answering") as caught:
        await read_to_end(streams[0])
    assert caught.value.code == "model_not_found"
    assert ref.id not in running.served.engine.slots.loaded_ids
    assert ref.id not in running.served.adapters.disk.ids
    # Others go on.
    await anext(aiter(streams[1]))
    await streams[1].close()


async def test_a_project_weighs_what_the_gateway_says(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[int] = []
    add = Places.add

    def note(places: Places, sequence: Sequence) -> None:
        weights.append(sequence.weight)
        add(places, sequence)

    monkeypatch.setattr(Places, "add", note)
    for weight in ({"x-luthier-weight": "3"}, {}):
        await running.openai.completions.create(
            model=MODEL,
            prompt="x",
            max_tokens=1,
            extra_headers={"x-luthier-cache-salt": "proj_heavy", **weight},
        )
    assert weights == [3, 1]


async def test_each_place_of_adapters_has_its_figures(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store_adapter(running, base_path, tmp_path / "a", "adapter-counted")
    for _ in range(2):
        await running.openai.chat.completions.create(
            model=ref.id, messages=HELLO, max_tokens=1, extra_headers=running.headers(ref)
        )
    text = (await running.http.get("/metrics")).text
    found = {f.name: f for f in text_string_to_metric_families(text)}
    tiers = {"slots", "ram", "disk"}
    for name in ("entries", "bytes", "budget_bytes"):
        samples = found[f"luthier_serving_adapter_tier_{name}"].samples
        assert {s.labels["tier"]: s.value > 0 for s in samples} == dict.fromkeys(tiers, True)
    for name in ("hits", "misses", "evictions"):
        samples = found[f"luthier_serving_adapter_tier_{name}"].samples
        assert {s.labels["tier"] for s in samples} == tiers | {"blob"}
    loads = found["luthier_serving_adapter_tier_load_seconds"].samples
    assert {s.labels["tier"] for s in loads if s.value > 0} == tiers


async def test_what_was_deleted_while_the_server_was_away_is_unloaded(
    running: Running, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store_adapter(running, base_path, tmp_path / "a", "adapter-deleted")
    await running.openai.chat.completions.create(
        model=ref.id, messages=HELLO, max_tokens=2, extra_headers=running.headers(ref)
    )
    running.blobs.delete(ref.blob_key)
    monkeypatch.setattr(served_base, "FORGET_INTERVAL_S", 0.01)
    forgetting = asyncio.create_task(running.served.forget_deleted())
    await running.until(lambda: ref.id not in running.served.engine.stats().loaded_adapter_ids)
    forgetting.cancel()
    with pytest.raises(openai.NotFoundError):
        await running.openai.chat.completions.create(model=ref.id, messages=HELLO)
