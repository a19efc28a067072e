"""/v1/moderations and guards, as the unmodified client meets them, by classifiers of either kind."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from fastapi.responses import JSONResponse

from api.gateway.moderation import CATEGORIES, Judgement
from tests.api.stack import Api, Tenant, wait_until

from .fake_backend import FakeBackend
from .test_classifications import classifier
from .test_inference import gateway
from .test_metering import sums

LABELS = ("safe", "harassment", "hate", "spam")
SHARES = {
    "hate": {"safe": 0.1, "harassment": 0.2, "hate": 0.6, "spam": 0.1},
    "mixed": {"safe": 0.4, "harassment": 0.3, "hate": 0.25, "spam": 0.05},
    "fine": {"safe": 0.9, "harassment": 0.04, "hate": 0.03, "spam": 0.03},
}
HELLO: list[Any] = [{"role": "user", "content": "fine"}]


def judged(text: str) -> dict[str, float]:
    """By the first of the words above that it has; what has none is fine."""
    return next((shares for word, shares in SHARES.items() if word in text), SHARES["fine"])


def bind(client: openai.OpenAI, model: str) -> None:
    body = {"alias": "omni-moderation-latest", "model": model}
    client.post("/luthier/aliases", body=body, cast_to=object)


def guard(client: openai.OpenAI, **on: bool) -> Any:
    return client.post("/luthier/guard", body=on, cast_to=object)


def test_texts_are_judged_in_openai_s_form(api: Api, tenant: Tenant) -> None:
    model, backend = classifier(api, tenant, texts=LABELS), FakeBackend(judge=judged)
    with gateway(api, backend) as running, running.client(tenant) as client:
        bind(client, model.name)
        reply = client.moderations.create(input=["hate", "mixed", "fine"])
        assert reply.id.startswith("modr-")
        assert reply.model == model.name
        hate, mixed, fine = reply.results
        assert (hate.flagged, hate.categories.hate, hate.categories.harassment) == (
            True,
            True,
            False,
        )
        assert hate.category_scores.hate == 0.6
        # None is probable by itself, but that it is safe is not either.
        assert (mixed.flagged, mixed.categories.harassment) == (True, True)
        assert not mixed.categories.hate
        assert not fine.flagged
        assert not any(fine.categories.to_dict().values())
        assert set(fine.categories.to_dict()) == {*CATEGORIES, "spam"}
        assert fine.category_scores.violence_graphic == 0
        assert hate.category_applied_input_types.hate == ["text"]
        assert hate.category_applied_input_types.violence == []
        # By its own name too, by any of OpenAI's, and in parts, which are one input.
        parts: Any = [{"type": "text", "text": "fine"}, {"type": "text", "text": "hate"}]
        for name in (model.name, "text-moderation-stable", "omni-moderation-2024-09-26"):
            (one,) = client.moderations.create(input=parts, model=name).results
            assert one.flagged
        wait_until(lambda: sums(api, tenant).get(model.name, (0,))[0] == 12)
    body, headers = backend.requests[0]
    assert (body["form"], [each["text"] for each in body["labels"]]) == ("text", [*LABELS])
    assert headers["x-luthier-cache-salt"] == tenant.project_id


def test_without_a_classifier_it_is_told_how_to_make_one(api: Api, tenant: Tenant) -> None:
    backend = FakeBackend(judge=judged)
    with gateway(api, backend) as running, running.client(tenant) as client:
        for refused in (
            lambda: client.moderations.create(input="x"),
            lambda: client.moderations.create(input="x", model="text-moderation-latest"),
            lambda: guard(client, input=True),
        ):
            with pytest.raises(
                openai.NotFoundError, match=r"python -m examples\.moderation"
            ) as found:
                refused()
            assert (found.value.code, found.value.param) == ("model_not_found", "model")
            assert "LUTHIER_MODERATION_MODEL" in found.value.message
        with pytest.raises(openai.NotFoundError, match=r"The model .unheard-of. does not exist"):
            client.moderations.create(input="x", model="unheard-of")
        for other in (api.tuned_model(tenant), classifier(api, tenant)):
            with pytest.raises(openai.BadRequestError, match="so it cannot judge what is safe"):
                client.moderations.create(input="x", model=other.name)
        assert guard(client, output=False)["model"] is None
    assert backend.requests == []


def test_the_operator_names_one_for_all_projects(api: Api, tenant: Tenant) -> None:
    theirs = classifier(api, api.tenant(), texts=[" Safe", " violence"], head=True)
    shares = {" Safe": 0.3, " violence": 0.7}
    backend = FakeBackend(judge=lambda _: shares)
    options: Any = {"moderation_model": theirs.name, "moderation_threshold": 0.8}
    with gateway(api, backend, **options) as running, running.client(tenant) as client:
        reply = client.moderations.create(input="x")
        assert (reply.model, reply.results[0].flagged) == (theirs.name, False)
        assert reply.results[0].category_scores.violence == 0.7
        # It is nobody else's for all that.
        with pytest.raises(openai.NotFoundError):
            client.moderations.create(input="x", model=theirs.name)
        bind(client, classifier(api, tenant, texts=LABELS).name)
        backend.judge = judged
        assert client.moderations.create(input="x").model != theirs.name
    assert backend.requests[0][1]["x-luthier-cache-salt"] == tenant.project_id
    assert backend.requests[0][1]["x-luthier-artifact-kind"] == "classifier"


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        (None, "input", "Missing required parameter"),
        (7, "input", "expected a string or an array"),
        ([], "input", "an array of 1 to 256"),
        (["x"] * 257, "input", "an array of 1 to 256"),
        (["x", 7], "input", "expected an array of strings"),
        ([{"type": "text"}], "input", "and a string as its 'text'"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "input[0].type", "read no images"),
    ],
)
def test_inputs_that_are_none_are_refused(
    api: Api, tenant: Tenant, given: Any, param: str, words: str
) -> None:
    with api.client(tenant) as client, pytest.raises(openai.BadRequestError, match=words) as found:
        client.moderations.create(input=given)
    assert found.value.param == param


def test_a_guard_refuses_what_users_write(api: Api, tenant: Tenant) -> None:
    model, backend = classifier(api, tenant, texts=LABELS), FakeBackend(judge=judged)
    with gateway(api, backend) as running, running.client(tenant) as client:
        bind(client, model.name)
        assert guard(client, input=True) == {
            "object": "luthier.guard",
            "input": True,
            "output": False,
            "model": model.name,
        }
        assert client.get("/luthier/guard", cast_to=object) == guard(client)
        ask = client.chat.completions.create
        reply = ask(model="tiny-random", messages=HELLO)
        assert reply.choices[0].message.content is not None
        num_asked = len(backend.requests)
        parts: Any = [{"type": "text", "text": "so much hate"}]
        messages: Any = [
            {"role": "system", "content": "hate"},
            *HELLO,
            {"role": "user", "content": parts},
        ]
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="was flagged as hate") as refused:
                ask(model="tiny-random", messages=messages, stream=stream)
            assert refused.value.code == "content_policy_violation"
            assert refused.value.param == "messages[2]"
        with pytest.raises(openai.BadRequestError, match=r"'prompt\[1\]' was flagged as harass"):
            client.completions.create(model="tiny-random", prompt=["fine", "mixed"])
        with pytest.raises(openai.BadRequestError, match="not token ids"):
            client.completions.create(model="tiny-random", prompt=[1, 2])
        with pytest.raises(openai.BadRequestError, match="'input' was flagged as hate") as refused:
            client.responses.create(model="tiny-random", input="hate")
        assert (refused.value.param, refused.value.code) == ("input", "content_policy_violation")
        # The model itself was asked nothing, and what an app says by itself is its own affair.
        asked = [body for body, _ in backend.requests[num_asked:]]
        assert [body["input"] for body in asked[:2]] == [["fine", "so much hate"]] * 2
        assert all("input" in body for body in asked)
        guard(client, input=False)
        assert ask(model="tiny-random", messages=messages).choices[0].message.content


def test_a_guard_withholds_what_a_model_answers(api: Api, tenant: Tenant) -> None:
    model, backend = classifier(api, tenant, texts=LABELS), FakeBackend(name="hate", judge=judged)
    with gateway(api, backend) as running, running.client(tenant) as client:
        bind(client, model.name)
        guard(client, output=True)
        reply = client.chat.completions.create(
            model="tiny-random", messages=HELLO, store=True, metadata={"of": "guard"}
        )
        choice = reply.choices[0]
        assert (choice.finish_reason, choice.message.content) == ("content_filter", None)
        assert choice.message.refusal == "The reply was withheld by this project's guard."
        assert reply.usage is not None
        stored = client.chat.completions.list(metadata={"of": "guard"}).data
        assert [one.choices[0].message.content for one in stored] == [None]
        text = client.completions.create(model="tiny-random", prompt="fine").choices[0]
        assert (text.finish_reason, text.text) == ("content_filter", "")
        response = client.responses.create(model="tiny-random", input="fine")
        assert response.incomplete_details is not None
        assert (response.incomplete_details.reason, response.output_text) == ("content_filter", "")
        # What stands in a call is shown as well, in either form.
        function = {"name": "f", "arguments": '"hate"'}
        for delta in (
            {"function_call": function},
            {"tool_calls": [{"index": 0, "function": function}]},
        ):
            backend.deltas = [delta]
            choice = client.chat.completions.create(model="tiny-random", messages=HELLO).choices[0]
            assert choice.finish_reason == "content_filter"
            assert (choice.message.function_call, choice.message.tool_calls) == (None, None)
        backend.deltas, backend.name = None, "anyone"
        told = client.chat.completions.create(model="tiny-random", messages=HELLO).choices[0]
        assert told.message.content == "Hello from anyone with ünicode"
        # A guard that has lost its classifier lets nothing through.
        client.delete("/luthier/aliases/omni-moderation-latest", cast_to=object)
        with pytest.raises(openai.BadRequestError, match="no classifier to go by") as lost:
            client.chat.completions.create(model="tiny-random", messages=HELLO)
        assert lost.value.code == "guard_without_classifier"
        # Nor does one whose classifier's name stands for something else.
        bind(client, api.tuned_model(tenant).name)
        with pytest.raises(openai.BadRequestError, match="cannot judge what is safe") as lost:
            client.chat.completions.create(model="tiny-random", messages=HELLO)
        assert (lost.value.code, lost.value.param) == ("guard_without_classifier", None)
        with pytest.raises(openai.BadRequestError, match="cannot judge what is safe"):
            guard(client, input=True)
        assert guard(client, output=False)["model"] is None
        client.chat.completions.create(model="tiny-random", messages=HELLO)


def test_a_guard_judges_a_streamed_reply_before_any_of_it_is_shown(
    api: Api, tenant: Tenant
) -> None:
    model, backend = classifier(api, tenant, texts=LABELS), FakeBackend(judge=judged)
    with gateway(api, backend) as running, running.client(tenant) as client:
        bind(client, model.name)
        guard(client, output=True)
        for name, is_withheld in (("hate", True), ("anyone", False)):
            backend.name = name
            text = "" if is_withheld else "Hello from anyone with ünicode"
            reason = "content_filter" if is_withheld else "stop"
            asked: Any = {"stream": True, "stream_options": {"include_usage": True}}
            with client.chat.completions.create(
                model="tiny-random", messages=HELLO, store=True, metadata={"of": name}, **asked
            ) as stream:
                *chunks, last = list(stream)
            choices = [choice for chunk in chunks for choice in chunk.choices]
            assert "".join(choice.delta.content or "" for choice in choices) == text
            assert any(choice.delta.refusal for choice in choices) == is_withheld
            assert choices[-1].finish_reason == reason
            assert (last.usage and last.usage.completion_tokens, last.model) == (5, "tiny-random")
            stored = client.chat.completions.list(metadata={"of": name}).data
            assert [one.choices[0].message.content or "" for one in stored] == [text]
            texts = client.completions.create(model="tiny-random", prompt="fine", stream=True)
            said = [choice for chunk in texts for choice in chunk.choices]
            assert ("".join(each.text for each in said), said[-1].finish_reason) == (text, reason)
            for background in (False, True):
                events = list(
                    client.responses.create(
                        model="tiny-random", input="fine", stream=True, background=background
                    )
                )
                assert all(name not in event.to_json() for event in events) or not is_withheld
                end: Any = events[-1]
                assert end.type == f"response.{'incomplete' if is_withheld else 'completed'}"
                assert end.response.output_text == text


def test_a_guarded_stream_tells_what_went_wrong_and_counts_what_was_used(
    api: Api, tenant: Tenant
) -> None:
    model, backend = classifier(api, tenant, texts=LABELS), FakeBackend(judge=judged)
    with gateway(api, backend) as running, running.client(tenant) as client:
        bind(client, model.name)
        guard(client, output=True)
        ask = client.chat.completions.create
        backend.breaks_after = 2
        with pytest.raises(openai.APIError):
            list(ask(model="tiny-random", messages=HELLO, stream=True))
        backend.breaks_after = None
        client.delete("/luthier/aliases/omni-moderation-latest", cast_to=object)
        with pytest.raises(openai.APIError, match="no classifier to go by"):
            list(ask(model="tiny-random", messages=HELLO, stream=True))
        backend.is_endless = True
        stream = ask(model="tiny-random", messages=HELLO, stream=True)
        stream.response.close()
        wait_until(lambda: backend.num_cancelled == 1)
        wait_until(lambda: sums(api, tenant).get("tiny-random", (0, 0, 0))[2] == 2 + 5 + 5)


def test_a_guard_is_its_owners_to_change(api: Api, tenant: Tenant) -> None:
    model, backend = classifier(api, tenant, texts=LABELS), FakeBackend(judge=judged)
    with (
        gateway(api, backend) as running,
        running.client(tenant, admin_key=running.admin_key()) as owner,
    ):
        accounts = owner.admin.organization.projects.service_accounts
        account = accounts.create(tenant.project_id, name="app")
        assert account.api_key is not None
        with running.client(Tenant(tenant.project_id, account.api_key.value)) as member:
            bind(member, model.name)
            with pytest.raises(openai.PermissionDeniedError, match="the role 'owner'"):
                guard(member, input=True)
            guard(owner, input=True)
            # Neither off, nor by another classifier, which might find all safe.
            for forbidden in (
                lambda: guard(member, input=False),
                lambda: bind(member, model.name),
                lambda: member.delete("/luthier/aliases/omni-moderation-latest", cast_to=object),
            ):
                with pytest.raises(openai.PermissionDeniedError, match="the role 'owner'"):
                    forbidden()
            assert member.get("/luthier/guard", cast_to=object) == guard(owner)
            accounts.update(account.id, project_id=tenant.project_id, role="owner")
            bind(member, model.name)
            assert guard(member, input=False)["input"] is False


def test_what_a_guard_judges_is_one_request_of_a_minute(api: Api, tenant: Tenant) -> None:
    """Who has none left costs the classifier nothing, and no reply is lost for want of another."""
    model, backend = classifier(api, tenant, texts=LABELS), FakeBackend(judge=judged)
    with (
        gateway(api, backend, requests_per_minute=2) as running,
        running.client(tenant) as client,
    ):
        bind(client, model.name)
        reply = client.moderations.with_raw_response.create(input="fine")
        assert reply.headers["x-ratelimit-remaining-requests"] == "1"
        guard(client, input=True, output=True)
        client.chat.completions.create(model="tiny-random", messages=HELLO)
        assert len(backend.requests) == 4
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="tiny-random", messages=HELLO)
        assert len(backend.requests) == 4


def test_what_an_inference_server_refuses_for_a_while_is_told_with_the_while(
    api: Api, tenant: Tenant
) -> None:
    error = {"message": "Full.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    full = JSONResponse({"error": error}, status_code=429, headers={"retry-after": "17"})
    model, backend = classifier(api, tenant, texts=LABELS), FakeBackend(answer=full)
    with gateway(api, backend) as running, running.client(tenant) as client:
        for ask in (
            lambda: client.moderations.create(input="fine", model=model.name),
            lambda: client.responses.create(model="tiny-random", input="fine"),
        ):
            with pytest.raises(openai.RateLimitError) as refused:
                ask()
            assert refused.value.response.headers["retry-after"] == "17"


def test_what_is_flagged_is_what_is_not_safe() -> None:
    known = frozenset({"hate", "spam"})
    for hate, spam, flagged in (
        (0.5, 0.1, ["hate"]),
        (0.26, 0.25, ["hate"]),
        (0.1, 0.6, ["spam"]),
        (0.2, 0.2, []),
    ):
        assert Judgement({"hate": hate, "spam": spam}, known, 0.5).flagged == flagged
    assert Judgement({"hate": 0.4, "spam": 0.35}, known, 0.3).flagged == ["hate", "spam"]
