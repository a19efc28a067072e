"""Every kind of artifact from the store to the reply: the api, an inference server, and the unmodified client."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pydantic
import pytest
import torch
from openai.types.responses import ParsedResponseFunctionToolCall
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from modeling.artifacts import full, kinds, lora, model_tensors, output_layers, prefix
from modeling.artifacts.artifact import Artifact
from serving import served_base
from serving.app import create_app
from serving.served_base import ServedBase
from storage.models.base_models import BaseModel
from tests.api.stack import Api, Tenant, running, running_api, wait_until
from tests.serving.parts import (
    load_model,
    prompt_of,
    tar_of,
    write_adapter,
    write_classifier,
)
from tests.serving.server import SETTINGS
from text.chat_template import ChatTemplate
from text.tokenizer import Tokenizer

from .test_classifications import classifier

BASE = BaseModel("tiny-random", "builtin:tiny-random", "1", max_seq_len=2048)
NUM_GREEDY = 24


@pytest.fixture
def front(api: Api, tmp_path: Path) -> Iterator[Api]:
    """The api before an inference server that reads the same blobs."""

    async def load() -> ServedBase:
        return await served_base.load(
            BASE,
            frozenset({BASE.id}),
            bases_dir=tmp_path / "served",
            cache_dir=tmp_path / "cache",
            blobs=api.blobs,
            settings=SETTINGS.replace(precision="fp32"),
        )

    with ExitStack() as stack:
        url = stack.enter_context(running(create_app(load, internal_key="internal")))
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        settings = api.settings.replace(backends={BASE.id: (url,)}, internal_key="internal")
        yield stack.enter_context(running_api(settings))


def artifacts(base_path: Path) -> list[Artifact]:
    """One of each kind but LoRA."""
    config = load_model(base_path, "sdpa").config
    generator = torch.Generator().manual_seed(1)
    shapes = model_tensors.shapes_of(config)
    tensors = {n: torch.randn(s, generator=generator) / s[-1] ** 0.5 for n, s in shapes.items()}
    of_layers = output_layers.trained_shapes(config, num_blocks=1, train_head=True)
    return [
        full.artifact(config, tensors),
        output_layers.artifact(
            {name: tensors[name] for name in of_layers}, num_blocks=1, train_head=True
        ),
        prefix.artifact(torch.randn(24, 2, 2, 2, 16, generator=generator)),
    ]


def downloaded(base_path: Path, folder: Path, kind: str) -> Any:
    """What whoever downloads the folder has, in transformers and PEFT."""
    base = load_model(base_path, "sdpa")
    model: nn.Module = base
    if kind == full.KIND:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    elif kind == output_layers.KIND:
        base.load_state_dict(
            {n: t.float() for n, t in output_layers.read(folder, base.config).tensors.items()},
            strict=False,
        )
    elif kind in (lora.KIND, prefix.KIND):
        model = PeftModel.from_pretrained(base, folder)
    return model.eval()


def expected_logprobs(model: Any, ids: list[int]) -> list[float]:
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logprobs[i, token]) for i, token in enumerate(ids[1:])]


def greedy(model: Any, prompt: list[int], tokenizer: Tokenizer) -> list[int]:
    """What comes behind the prompt; nothing is kept from one token to the next."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(NUM_GREEDY):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in tokenizer.stop_ids:
                break
    return ids[len(prompt) :]


class Mark(pydantic.BaseModel):
    """What replies are held to, on the way through the gateway."""

    passed: bool
    grade: Literal["a", "b"]


def check_parsed(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "response_format": Mark,
        "max_tokens": 200,
        "seed": 1,
    }
    whole = client.chat.completions.parse(**asked, store=True).choices[0]
    assert isinstance(whole.message.parsed, Mark)
    assert whole.finish_reason == "stop"
    with client.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == whole.message.parsed
    response = client.responses.parse(
        model=model, input="Hello", text_format=Mark, max_output_tokens=200, extra_body={"seed": 1}
    )
    assert response.output_parsed == whole.message.parsed


def check_called(client: openai.OpenAI, model: str) -> None:
    """The same as the arguments of a call, in both forms."""
    tools: Any = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 0}
    tool = openai.pydantic_function_tool(Mark)
    called = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "Hello"}],
        tools=[tool],
        max_tokens=200,
        **tools,
    ).choices[0]
    assert called.finish_reason == "tool_calls"
    (call,) = list(called.message.tool_calls or [])
    assert isinstance(call.function.parsed_arguments, Mark)
    flat: Any = {"type": "function", **tool["function"]}
    (item,) = client.responses.parse(
        model=model, input="Hello", tools=[flat], max_output_tokens=200, **tools
    ).output
    assert isinstance(item, ParsedResponseFunctionToolCall)
    assert item.arguments == call.function.arguments


def test_a_head_that_is_downloaded_says_what_is_served(
    front: Api, tenant: Tenant, base_path: Path, tmp_path: Path
) -> None:
    folder = write_classifier(base_path, tmp_path / "head", ["a", "b"])
    name = classifier(front, tenant, content=tar_of(folder), head=True).name
    texts = ["Is it good?", "x" * 200, ""]
    with front.client(tenant) as client:
        reply: Any = client.post(
            "/luthier/classifications", body={"model": name, "input": texts}, cast_to=object
        )
    plain = AutoModelForSequenceClassification.from_pretrained(
        base_path, num_labels=2, dtype=torch.float32
    )
    # It reads the last token that is not this one.
    plain.config.pad_token_id = 0
    oracle = PeftModel.from_pretrained(plain, folder).eval()
    template = ChatTemplate.load(base_path)
    prompts = [
        template.render([{"role": "user", "content": text}], add_generation_prompt=True)
        for text in texts
    ]
    assert reply["usage"]["total_tokens"] == sum(map(len, prompts))
    for ids, entry in zip(prompts, reply["data"], strict=True):
        with torch.inference_mode():
            shares = oracle(torch.tensor([ids])).logits[0].softmax(-1).tolist()
        assert list(entry["probabilities"].values()) == pytest.approx(shares, abs=1e-4)
        assert entry["label"] == max("ab", key=lambda label: entry["probabilities"][label])


@pytest.mark.parametrize("head", [True, False])
def test_moderation_says_what_the_classifier_does(
    front: Api, tenant: Tenant, base_path: Path, tmp_path: Path, head: bool
) -> None:
    labels = ["safe", "hate", "spam"]
    folder = (
        write_classifier(base_path, tmp_path / "head", labels)
        if head
        else write_adapter(base_path, tmp_path / "lora")
    )
    name = classifier(front, tenant, content=tar_of(folder), head=head, texts=labels).name
    texts = ["Is it good?", "x" * 200]
    with front.client(tenant) as client:
        client.post(
            "/luthier/aliases",
            body={"alias": "omni-moderation-latest", "model": name},
            cast_to=object,
        )
        reply = client.moderations.create(input=texts)
        labelled: Any = client.post(
            "/luthier/classifications", body={"model": name, "input": texts}, cast_to=object
        )
    assert reply.model == name
    for result, entry in zip(reply.results, labelled["data"], strict=True):
        scores, expected = result.category_scores.to_dict(), entry["probabilities"]
        assert len(scores) == 14
        assert scores["hate"] == pytest.approx(expected["hate"], abs=1e-4)
        assert scores["spam"] == pytest.approx(expected["spam"], abs=1e-4)
        assert result.flagged == (expected["safe"] <= 0.5)


def test_a_model_at_a_strength_lies_between_its_base_and_itself(
    front: Api, tenant: Tenant, base_path: Path, tmp_path: Path
) -> None:
    folder = write_adapter(base_path, tmp_path / "lora")
    model = front.tuned_model(tenant, tar_of(folder)).name
    config, layers = lora.load(folder, load_model(base_path, "sdpa").config)
    halved = {name: (a, b / 2, scale) for name, (a, b, scale) in layers.items()}
    lora.write(tmp_path / "half", lora.of_layers(config, halved))
    ids = prompt_of(40)
    half = downloaded(base_path, tmp_path / "half", lora.KIND)
    expected = expected_logprobs(half, ids)
    with front.client(tenant) as client:

        def written(name: str) -> str:
            completion = client.completions.create(
                model=name, prompt=ids, max_tokens=16, temperature=0
            )
            assert completion.model == name
            return completion.choices[0].text

        reply = client.completions.create(
            model=f"{model}@0.5", prompt=ids, max_tokens=0, echo=True, logprobs=0
        )
        assert reply.choices[0].logprobs is not None
        assert (reply.choices[0].logprobs.token_logprobs or [])[1:] == pytest.approx(
            expected, abs=2e-5
        )
        assert written(f"{model}@0") == written(BASE.id)
        assert written(f"{model}@1") == written(model)
        assert len({written(f"{model}@{s}") for s in (0, 0.5, 1, 1.5)}) == 4


def test_what_is_downloaded_computes_what_is_served(
    front: Api, tenant: Tenant, base_path: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    folders = {"lora": write_adapter(base_path, tmp_path / "lora")}
    for artifact in artifacts(base_path):
        folders[artifact.kind] = tmp_path / artifact.kind
        kinds.format_of(artifact.kind).write(folders[artifact.kind], artifact)
    ids = prompt_of(40)
    with front.client(tenant) as client, front.http(tenant) as http:
        for kind, folder in folders.items():
            model = front.tuned_model(tenant, tar_of(folder), kind=kind).name
            reply = client.completions.create(
                model=model, prompt=ids, max_tokens=0, echo=True, logprobs=0
            )
            assert (reply.model, reply.usage and reply.usage.prompt_tokens) == (model, len(ids))
            assert reply.choices[0].logprobs is not None
            found = reply.choices[0].logprobs.token_logprobs or []
            download = http.get(f"/v1/luthier/models/{model}/adapter")
            assert download.headers["x-luthier-artifact-kind"] == kind
            unpacked = tmp_path / "downloaded" / kind
            with tarfile.open(fileobj=io.BytesIO(download.content)) as tar:
                tar.extractall(unpacked, filter="data")
            oracle = downloaded(base_path, unpacked, kind)
            assert found[1:] == pytest.approx(expected_logprobs(oracle, ids), abs=2e-5), kind
            said = client.completions.create(
                model=model, prompt=ids, max_tokens=NUM_GREEDY, temperature=0
            )
            expected = tokenizer.decode(greedy(oracle, ids, tokenizer))
            assert said.choices[0].text == expected, kind
            check_parsed(client, model)
            if kind == lora.KIND:
                check_called(client, model)
        kept = client.chat.completions.list(limit=1).data[0].to_dict()
        assert kept["response_format"]["json_schema"]["name"] == "Mark"  # type: ignore[index]
