"""Models that are bases of their own, over HTTP: they answer as transformers does on their folder, and share what room
there is."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
import torch
from transformers import PretrainedConfig

from modeling.artifacts import full, model_tensors, output_layers
from modeling.artifacts.artifact import Artifact
from serving import whole_models
from serving.adapters.ref import AdapterRef
from serving.engine.engine import Engine
from tests.modeling.models import with_output_layers
from tests.serving.parts import expected_ids, load_model, prompt_of
from tests.serving.server import (
    SETTINGS,
    Running,
    read_to_end,
    running_server,
    store,
    store_adapter,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A model of tiny-random's size takes 1.4 MiB with its keys and values.
ROOM_FOR_TWO = SETTINGS.replace(whole_model_bytes=3 << 20, precision="fp32")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running_server(tmp_path_factory.mktemp("serving"), ROOM_FOR_TWO) as it:
        yield it


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_models, "MIN_IDLE_S", 0.0)
    monkeypatch.setattr(whole_models, "LOOK_INTERVAL_S", 0.01)


def moved(config: PretrainedConfig, base_path: Path, seed: int) -> dict[str, torch.Tensor]:
    """The base's weights after some training."""
    generator = torch.Generator().manual_seed(seed)
    base = dict(load_model(base_path, "sdpa").named_parameters())
    return {
        name: base[name].detach() + torch.empty(shape).normal_(0, 0.1, generator=generator)
        for name, shape in model_tensors.shapes_of(config).items()
    }


def write_full(base_path: Path, folder: Path, seed: int = 1, *, is_tied: bool = False) -> Path:
    config = load_model(base_path, "sdpa").config
    config.tie_word_embeddings = is_tied
    full.write(folder, full.artifact(config, moved(config, base_path, seed)))
    return folder


def write_layers(base_path: Path, folder: Path, *, train_head: bool) -> tuple[Path, Path]:
    """The artifact's folder, and that of the whole model."""
    base = load_model(base_path, "sdpa")
    shapes = output_layers.trained_shapes(base.config, num_blocks=1, train_head=train_head)
    tensors = moved(base.config, base_path, seed=3)
    artifact = output_layers.artifact(
        {name: tensors[name] for name in shapes},
        num_blocks=1,
        train_head=train_head,
        base_model="tiny-random",
    )
    output_layers.write(folder / "layers", artifact)
    merged = with_output_layers(base.config, dict(base.named_parameters()), artifact)
    # The trunk as the server has it, which has not been rounded.
    merged.tensors.update(  # type: ignore[attr-defined]
        {n: p for n, p in base.named_parameters() if n not in shapes}
    )
    model = load_model(base_path, "sdpa")
    model.load_state_dict(
        {n: t.float() for n, t in merged.tensors.items()}, strict=True, assign=True
    )
    model.save_pretrained(folder / "merged")
    return folder / "layers", folder / "merged"


async def ask(running: Running, ref: AdapterRef | None, salt: str = "", **options: Any) -> Any:
    return await running.openai.completions.create(
        model="tiny-random" if ref is None else ref.id,
        prompt=options.pop("prompt", prompt_of(20)),
        temperature=0,
        **{"max_tokens": 12, **options},
        extra_headers={} if ref is None else running.headers(ref, salt),
    )


async def answers(running: Running, ref: AdapterRef | None, folder: Path) -> None:
    """The model writes what transformers writes, and finds the prompt as probable."""
    prompt = prompt_of(20)
    reply = await ask(running, ref, prompt=prompt, echo=True, logprobs=0)
    ids = expected_ids(folder, prompt, max_tokens=12)
    found = reply.choices[0].logprobs
    written = found.token_logprobs[len(prompt) :]
    with torch.inference_mode():
        logits = load_model(folder, "sdpa")(torch.tensor([prompt + ids])).logits[0]
    logprobs = logits.log_softmax(-1)
    expected = [float(logprobs[i, t]) for i, t in enumerate((prompt + ids)[1:])]
    assert found.token_logprobs[1 : len(prompt + ids)] == pytest.approx(expected, abs=2e-5)
    assert len(written) == len(ids)


@pytest.mark.parametrize("is_tied", [False, True])
async def test_a_full_model_answers_as_transformers_does_on_its_folder(
    running: Running, base_path: Path, tmp_path: Path, is_tied: bool
) -> None:
    folder = write_full(base_path, tmp_path / "full", is_tied=is_tied)
    ref = store(running, folder, f"artifact-full{is_tied}", full.KIND)
    await asyncio.gather(
        answers(running, ref, folder),
        answers(running, None, base_path),
        answers(running, ref, folder),
    )


@pytest.mark.parametrize("train_head", [False, True])
async def test_output_layers_answer_as_transformers_does_on_the_merged_model(
    running: Running, base_path: Path, tmp_path: Path, train_head: bool
) -> None:
    layers, merged = write_layers(base_path, tmp_path, train_head=train_head)
    ref = store(running, layers, f"artifact-layers{train_head}", output_layers.KIND)
    await asyncio.gather(answers(running, ref, merged), answers(running, None, base_path))


@pytest.mark.slow
async def test_models_of_all_kinds_answer_side_by_side(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    refs = [
        store(running, write_full(base_path, tmp_path / f"{i}", i), f"artifact-side{i}", full.KIND)
        for i in range(2)
    ]
    refs.append(store_adapter(running, base_path, tmp_path / "lora", "artifact-lora"))
    asked = [None, *refs]
    alone = [(await ask(running, ref)).choices[0].text for ref in asked]
    assert len(set(alone)) == 4
    together = await asyncio.gather(*(ask(running, ref) for ref in asked * 4))
    assert [reply.choices[0].text for reply in together] == alone * 4


@pytest.mark.slow
async def test_the_least_recently_used_makes_room_and_leaves_no_memory(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    refs = [
        store(running, write_full(base_path, tmp_path / f"{i}", i), f"artifact-lru{i}", full.KIND)
        for i in range(3)
    ]
    first = [(await ask(running, ref)).choices[0].text for ref in refs[:2]]
    await ask(running, refs[0])
    models = running.served.whole_models
    gone = weakref.ref(models._models[refs[1].id].thread.engine.model)
    await ask(running, refs[2])
    assert models.ids == [refs[0].id, refs[2].id]
    gc.collect()
    assert gone() is None
    assert models.size_bytes <= ROOM_FOR_TWO.whole_model_bytes
    again = await asyncio.gather(*(ask(running, ref) for ref in refs[:2]))
    assert [reply.choices[0].text for reply in again] == first


async def test_what_is_at_work_stays_and_the_others_wait_or_are_told(
    running: Running, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [
        store(running, write_full(base_path, tmp_path / f"{i}", i), f"artifact-busy{i}", full.KIND)
        for i in range(3)
    ]
    for ref in refs[:2]:
        await ask(running, ref)
    endless: dict[str, Any] = {"max_tokens": 1900, "logit_bias": {"258": -100}, "stream": True}
    streams = [await ask(running, ref, **endless) for ref in refs[:2]]
    for stream in streams:
        await anext(aiter(stream))
    monkeypatch.setattr(whole_models, "MAX_WAIT_S", 0.1)
    with pytest.raises(openai.InternalServerError, match=r"of which .* 3\s?MiB|loaded") as caught:
        await ask(running, refs[2])
    assert caught.value.status_code == 503
    models = running.served.whole_models
    assert models.ids == [refs[0].id, refs[1].id]
    await running.until(lambda: not models._loading)
    monkeypatch.setattr(whole_models, "MAX_WAIT_S", 60.0)
    waiting = asyncio.create_task(ask(running, refs[2]))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await streams[0].close()
    assert (await waiting).choices[0].text
    assert models.ids == [refs[1].id, refs[2].id]
    await streams[1].close()


@pytest.mark.slow
async def test_a_project_with_many_models_makes_room_for_another_s_from_its_own(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    refs = [
        store(running, write_full(base_path, tmp_path / f"{i}", i), f"artifact-fair{i}", full.KIND)
        for i in range(3)
    ]
    await ask(running, refs[0], "small")
    models = running.served.whole_models
    for ref in (*refs[1:], refs[1]):
        await ask(running, ref, "greedy")
        assert models.ids == [refs[0].id, ref.id]


async def test_an_engine_that_failed_is_replaced_and_the_server_goes_on(
    running: Running, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store(running, write_full(base_path, tmp_path / "f"), "artifact-broken", full.KIND)
    text = (await ask(running, ref)).choices[0].text
    broken = running.served.whole_models.peek(ref.id, "")
    assert broken is not None

    def fail() -> None:
        raise RuntimeError("everything failed")

    monkeypatch.setattr(broken.engine, "step", fail)
    with pytest.raises(openai.InternalServerError, match="is being restarted"):
        await ask(running, ref)
    assert (await ask(running, ref)).choices[0].text == text
    assert running.served.whole_models.peek(ref.id, "") is not broken
    assert (await ask(running, None)).choices[0].text
    assert (await running.http.get("/readyz")).status_code == 200


async def test_many_who_ask_at_once_have_it_loaded_once(
    running: Running, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, built = running.served.whole_models, []
    build = models._build

    def count(artifact: Artifact, config: PretrainedConfig) -> Engine:
        built.append(artifact)
        return build(artifact, config)

    monkeypatch.setattr(models, "_build", count)
    ref = store(running, write_full(base_path, tmp_path / "f"), "artifact-once", full.KIND)
    replies = await asyncio.gather(*(ask(running, ref) for _ in range(8)))
    assert len(built) == 1
    assert len({reply.choices[0].text for reply in replies}) == 1


async def test_a_model_that_no_room_is_large_enough_for_is_told_with_the_numbers(
    running: Running, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.served.whole_models, "_budget_bytes", 1 << 20)
    ref = store(running, write_full(base_path, tmp_path / "f"), "artifact-large", full.KIND)
    told = r"needs 2 MiB .* has 1 MiB .*LUTHIER_SERVING_WHOLE_MODEL_BYTES"
    with pytest.raises(openai.InternalServerError, match=told) as caught:
        await ask(running, ref)
    assert (caught.value.status_code, caught.value.code) == (503, "model_too_large")


async def test_a_model_of_another_base_is_refused_and_takes_no_room(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    folder = write_full(base_path, tmp_path / "f")
    ids = running.served.whole_models.ids
    config = folder / full.CONFIG_NAME
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": 63'))
    ref = store(running, folder, "artifact-hostile", full.KIND)
    with pytest.raises(openai.InternalServerError, match="hidden_size 63") as caught:
        await ask(running, ref)
    assert caught.value.code == "adapter_unusable"
    mistaken = AdapterRef(ref.id, ref.sha256, ref.size_bytes, output_layers.KIND)
    with pytest.raises(openai.InternalServerError, match="lacks output_layers"):
        await ask(running, mistaken)
    assert running.served.whole_models.ids == ids


async def test_a_kind_that_is_not_known_is_refused(running: Running) -> None:
    headers = {
        "x-luthier-adapter-sha256": "0" * 64,
        "x-luthier-adapter-bytes": "1",
        "x-luthier-artifact-kind": "spell",
    }
    with pytest.raises(openai.BadRequestError, match="kind 'spell' are not served"):
        await running.openai.completions.create(
            model="artifact-spell", prompt="x", extra_headers=headers
        )


async def test_projects_share_neither_prefixes_nor_quotas_of_a_whole_model(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store(running, write_full(base_path, tmp_path / "f"), "artifact-salt", full.KIND)

    async def cached(salt: str) -> int:
        reply = await ask(running, ref, salt, prompt=prompt_of(200), max_tokens=2)
        found: int = reply.usage.prompt_tokens_details.cached_tokens
        return found

    assert [await cached("a"), await cached("b")] == [0, 0]
    assert await cached("a") > 100
    whole = running.served.whole_models.peek(ref.id, "a")
    assert whole is not None
    assert whole.admission is running.served.thread.admission


async def test_a_deleted_model_leaves_memory_and_disk(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store(running, write_full(base_path, tmp_path / "f"), "artifact-deleted", full.KIND)
    await ask(running, ref)
    listed = [model.id async for model in running.openai.models.list()]
    assert ref.id in listed
    assert "luthier_serving_whole_models" in (await running.http.get("/metrics")).text
    endless: dict[str, Any] = {"max_tokens": 1900, "logit_bias": {"258": -100}, "stream": True}
    stream = await ask(running, ref, **endless)
    await anext(aiter(stream))
    reply = await running.http.delete(f"/v1/luthier/adapters/{ref.id}")
    assert reply.json()["status"] == "unloaded"
    assert ref.id not in running.served.whole_models.ids
    assert ref.id not in running.served.adapters.disk.ids
    with pytest.raises(openai.APIError, match="deleted while it was answering"):
        await read_to_end(stream)
    with pytest.raises(openai.NotFoundError):
        await running.openai.completions.create(model=ref.id, prompt="x")


async def test_prefetching_brings_the_files_and_takes_nobody_s_room(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store(running, write_full(base_path, tmp_path / "f"), "artifact-files", full.KIND)
    ids = running.served.whole_models.ids
    body = {"sha256": ref.sha256, "size_bytes": ref.size_bytes, "kind": ref.kind}
    reply = await running.http.post(f"/v1/luthier/adapters/{ref.id}/prefetch", json=body)
    assert reply.status_code == 200
    assert running.served.whole_models.ids == ids
    running.blobs.delete(ref.blob_key)
    assert (await ask(running, ref)).choices[0].text


async def test_a_model_that_is_deleted_while_it_is_loaded_is_not_there_afterwards(
    running: Running, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store(running, write_full(base_path, tmp_path / "f"), "artifact-gone", full.KIND)
    models, may_build = running.served.whole_models, threading.Event()
    build = models._build

    def wait(artifact: Artifact, config: PretrainedConfig) -> Engine:
        assert may_build.wait(20)
        return build(artifact, config)

    monkeypatch.setattr(models, "_build", wait)
    asking = asyncio.create_task(ask(running, ref))
    await running.until(lambda: any(it.id == ref.id for it in models._loading))
    await running.http.delete(f"/v1/luthier/adapters/{ref.id}")
    may_build.set()
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await asking
    assert ref.id not in models.ids


async def test_a_model_that_several_delete_at_once_is_found_by_nobody_meanwhile(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store(running, write_full(base_path, tmp_path / "f"), "artifact-twice", full.KIND)
    await ask(running, ref)
    models = running.served.whole_models
    deleting = [asyncio.create_task(models.unload(ref.id)) for _ in range(2)]
    await asyncio.sleep(0)
    assert models.peek(ref.id, "") is None
    await asyncio.gather(*deleting)
    assert ref.id not in models.ids
