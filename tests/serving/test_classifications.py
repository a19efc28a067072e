"""Labels with their probabilities over HTTP, measured against scoring by echo."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest

from tests.serving.server import MODEL, Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

LABELS = ["good", "bad", "so-so"]
END = 258


def body(given: Any, form: str = "completion", **more: Any) -> dict[str, Any]:
    labels = [{"text": text, "token_ids": [*text.encode(), END]} for text in LABELS]
    return {"model": MODEL, "input": given, "form": form, "labels": labels, **more}


async def post(running: Running, content: dict[str, Any]) -> httpx.Response:
    return await running.http.post("/v1/luthier/classifications", json=content)


async def echoed_scores(running: Running, prompt: str) -> list[float]:
    prompts = [[*prompt.encode(), *label.encode(), END] for label in LABELS]
    scored = await running.openai.completions.create(
        model=MODEL, prompt=prompts, echo=True, logprobs=0, max_tokens=0
    )
    found = []
    for choice in scored.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        found.append(sum(choice.logprobs.token_logprobs[len(prompt) :]))
    return found


def about(probabilities: dict[str, float]) -> Any:
    """In bf16, where other neighbours in a batch are other last bits."""
    return pytest.approx(probabilities, rel=0.1, abs=0.01)


async def test_probabilities_are_shares_of_the_labels_likelihoods(running: Running) -> None:
    prompts = ["It is fine.\n\n###\n\n", "It is awful, " * 20, "?"]
    before = running.served.engine.stats().num_computed_tokens
    reply = (await post(running, body(prompts))).json()
    num_computed = running.served.engine.stats().num_computed_tokens - before
    assert reply["object"] == "list"
    assert reply["model"] == MODEL
    for index, (prompt, entry) in enumerate(zip(prompts, reply["data"], strict=True)):
        scores = await echoed_scores(running, prompt)
        total = sum(map(math.exp, scores))
        expected = {
            text: math.exp(score) / total for text, score in zip(LABELS, scores, strict=True)
        }
        assert entry["index"] == index
        assert entry["probabilities"] == about(expected)
        assert entry["label"] == max(expected, key=lambda text: expected[text])
        assert entry["probability"] == entry["probabilities"][entry["label"]]
    of_labels = sum(len(text) + 1 for text in LABELS)
    usage = reply["usage"]
    num_tokens = sum(len(prompt) + of_labels for prompt in prompts)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (num_tokens, 0)
    # The long input was read once, not once for each label.
    assert num_computed < 2 * len(prompts[1])


async def test_a_text_is_asked_as_a_chat_where_that_was_learnt(running: Running) -> None:
    of_text = (await post(running, body("Is it good?", "text"))).json()
    messages = [{"role": "user", "content": "Is it good?"}]
    of_chat = (await post(running, body(messages, "chat"))).json()
    assert of_text["data"][0]["probabilities"] == about(of_chat["data"][0]["probabilities"])
    of_prompt = (await post(running, body("Is it good?"))).json()
    assert of_prompt["data"][0]["probabilities"] != of_chat["data"][0]["probabilities"]


@pytest.mark.parametrize(
    ("given", "form", "words"),
    [
        ([{"role": "user", "content": "x"}], "completion", "expected 'input' to be a string"),
        ([], "text", "expected 1 to 256 inputs"),
        (["x"] * 257, "text", "expected 1 to 256 inputs"),
        (7, "text", "expected a string, an array of strings or an array of messages"),
        ([{"role": "nobody", "content": "x"}], "chat", "role must be one of"),
        ("x " * 5000, "text", "context"),
    ],
)
async def test_inputs_that_cannot_be_classified_are_refused(
    running: Running, given: Any, form: str, words: str
) -> None:
    reply = await post(running, body(given, form))
    assert reply.status_code == 400
    assert words in reply.json()["error"]["message"]


async def test_more_sequences_than_run_side_by_side_take_turns(running: Running) -> None:
    texts = [f"Number {n}" for n in range(200)]
    reply = (await post(running, body(texts, "text"))).json()
    assert [entry["index"] for entry in reply["data"]] == list(range(200))
    alone = (await post(running, body(texts[150], "text"))).json()["data"][0]
    assert reply["data"][150]["probabilities"] == about(alone["probabilities"])
