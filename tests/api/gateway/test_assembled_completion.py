from __future__ import annotations

from typing import Any

from api.gateway.assembled_completion import AssembledCompletion, AssembledText

Json = dict[str, Any]


def assembled(*choices: Json | list[Json], **last: Any) -> AssembledCompletion:
    """Of chunks with these choices, and a last one without any."""
    completion = AssembledCompletion()
    head = {"id": "chatcmpl-1", "created": 7, "model": "m", "object": "chat.completion.chunk"}
    for each in choices:
        completion.add({**head, "choices": each if isinstance(each, list) else [each]})
    completion.add({**head, "choices": [], **last})
    return completion


def delta(index: int = 0, reason: str | None = None, **values: Any) -> Json:
    return {"index": index, "delta": values, "finish_reason": reason}


def test_choices_are_put_together_each_for_itself() -> None:
    completion = assembled(
        [delta(1, role="assistant", content="")],
        delta(0, role="assistant", content="a"),
        delta(1, content="x"),
        [delta(0, content="b"), delta(1, content="y")],
        delta(1, reason="length"),
        delta(0, reason="stop"),
        usage={"total_tokens": 5},
    )
    assert completion.is_complete
    body = completion.body()
    assert (body["id"], body["created"], body["object"]) == ("chatcmpl-1", 7, "chat.completion")
    assert body["usage"] == {"total_tokens": 5}
    assert [(c["message"]["content"], c["finish_reason"]) for c in body["choices"]] == [
        ("ab", "stop"),
        ("xy", "length"),
    ]


def test_a_choice_without_an_end_makes_it_incomplete() -> None:
    assert not assembled(delta(0, reason="stop"), delta(1, content="x")).is_complete
    assert not assembled().is_complete


def test_log_probabilities_and_tool_calls_are_joined() -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f"}}
    rest = [{"index": 0, "function": {"arguments": part}} for part in ('{"a":', "1}")]
    body = assembled(
        {**delta(tool_calls=[first]), "logprobs": {"content": [1]}},
        {**delta(tool_calls=rest[:1]), "logprobs": {"content": [2, 3], "refusal": None}},
        delta(tool_calls=rest[1:], reason="tool_calls"),
    ).body()
    (choice,) = body["choices"]
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    assert choice["logprobs"] == {"content": [1, 2, 3], "refusal": None}


def test_a_text_completion_is_joined_and_keeps_what_only_this_server_says() -> None:
    completion = AssembledText()
    for text, logprobs, more in (
        ("a", {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None}, {}),
        ("b", {"tokens": ["b"], "token_logprobs": [-2.0], "top_logprobs": None}, {}),
        ("", None, {"finish_reason": "stop", "stop_reason": "END"}),
    ):
        completion.add({"choices": [{"index": 0, "text": text, "logprobs": logprobs, **more}]})
    body = completion.body()
    assert body["object"] == "text_completion"
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "top_logprobs": None}
    (choice,) = body["choices"]
    assert (choice["text"], choice["logprobs"]) == ("ab", logprobs)
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "END")
