from __future__ import annotations

import json

import pytest

from examples import evaluate, tickets
from examples.evaluate import Reply
from examples.tickets import Example, Ticket


def ticket(**changes: str | bool) -> Ticket:
    return {
        "category": "defect",
        "product": "kettle",
        "urgent": False,
        "refund": True,
        **changes,
    }


def score_one(reply: str, wanted: Ticket) -> evaluate.Scores:
    return evaluate.score([Example("a mail", wanted)], [Reply(reply, 10)])


def test_exact_reply_scores_full() -> None:
    scores = score_one(tickets.write(ticket()), ticket())
    assert (scores.valid_json, scores.exact_match) == (1, 1)
    assert set(scores.fields.values()) == {1}


def test_layout_and_order_are_forgiven() -> None:
    reply = '{ "refund": true, "urgent": false,\n "product": "kettle", "category": "defect" }'
    assert score_one(reply, ticket()).exact_match == 1


def test_one_wrong_field_is_no_exact_match() -> None:
    scores = score_one(tickets.write(ticket(product="none")), ticket())
    assert (scores.valid_json, scores.exact_match) == (1, 0)
    assert scores.fields == {"category": 1, "product": 0, "urgent": 1, "refund": 1}


def test_additional_field_is_no_exact_match() -> None:
    reply = tickets.write(ticket())[:-1] + ',"note":"x"}'
    assert score_one(reply, ticket()).exact_match == 0


@pytest.mark.parametrize("value", ["1", '"true"', "null", "[true]"])
def test_value_of_another_type_is_wrong(value: str) -> None:
    reply = tickets.write(ticket()).replace('"refund":true', f'"refund":{value}')
    scores = score_one(reply, ticket())
    assert (scores.valid_json, scores.exact_match, scores.fields["refund"]) == (1, 0, 0)


@pytest.mark.parametrize("reply", ["", "defect", '["a"]', '{"a":', 'Here it is: {"a":1}', "NaN"])
def test_reply_that_is_no_json_object_scores_nothing(reply: str) -> None:
    scores = score_one(reply, ticket())
    assert (scores.valid_json, scores.exact_match) == (0, 0)
    assert set(scores.fields.values()) == {0}


def test_scores_are_means_over_examples() -> None:
    examples = [Example("one", ticket()), Example("two", ticket(urgent=True))]
    replies = [Reply(tickets.write(ticket()), 10), Reply(tickets.write(ticket()), 20)]
    scores = evaluate.score(examples, replies)
    assert scores.exact_match == 0.5
    assert scores.fields["urgent"] == 0.5
    assert scores.prompt_tokens == 15


def test_score_refuses_replies_that_are_missing() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        evaluate.score([Example("one", ticket()), Example("two", ticket())], [Reply("{}", 1)])


def test_few_shot_prompt_shows_different_values_and_ends_with_the_mail() -> None:
    train = tickets.load("train")
    prompt = evaluate.few_shot(train, 8)
    assert len({shot.mail for shot in prompt.shots}) == 8
    for name, values in tickets.FIELDS.items():
        assert {shot.ticket[name] for shot in prompt.shots} == set(values), name
    messages = prompt.messages("the mail")
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 8, "user"]
    assert messages[1]["content"] == f"Mail: {prompt.shots[0].mail}\n\nJSON:"
    assert messages[-1] == {"role": "user", "content": "Mail: the mail\n\nJSON:"}


def test_zero_shot_prompt_names_every_field_and_value() -> None:
    system, question = evaluate.ZERO_SHOT.messages("100% broken")
    assert question == {"role": "user", "content": "Mail: 100% broken\n\nJSON:"}
    for name, values in tickets.FIELDS.items():
        assert f'"{name}"' in str(system["content"])
        assert all(json.dumps(value).strip('"') in str(system["content"]) for value in values)


def test_tuned_prompt_is_the_one_of_the_training_data() -> None:
    assert evaluate.TUNED.messages("the mail") == [
        {"role": "system", "content": evaluate.SHORT_INSTRUCTION},
        {"role": "user", "content": "the mail"},
    ]


def test_ticket_is_valid_only_with_all_fields_and_their_values() -> None:
    assert tickets.is_valid(ticket())
    assert not tickets.is_valid(ticket(category="praise"))
    number = tickets.read(tickets.write(ticket()).replace("false", "0"))
    assert number is not None
    assert not tickets.is_valid(number)
    assert not tickets.is_valid({"category": "defect"})
    assert not tickets.is_valid(ticket(note="x"))
