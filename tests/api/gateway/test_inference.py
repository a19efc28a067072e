from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from api.gateway import inference
from api.metrics import ApiMetrics
from api.wiring import wire
from foundation import invalid_parameters
from foundation.errors import LuthierError, NotFound
from storage import schema
from storage.models.base_models import WatchedCatalogue
from storage.organization.api_keys import Caller
from tests.api.stack import Api, Tenant, free_port, running, running_api, wait_until

from .fake_backend import FakeBackend

MODEL = "tiny-random"
MESSAGES: Any = [{"role": "user", "content": "Hello?"}]


@contextmanager
def gateway(api: Api, *backends: FakeBackend, dead: int = 0, **settings: Any) -> Iterator[Api]:
    """The api in front of these backends, and of some that do not answer."""
    with ExitStack() as stack:
        urls = [stack.enter_context(running(backend.app())) for backend in backends]
        urls += [f"http://127.0.0.1:{free_port()}" for _ in range(dead)]
        settings = {"backends": {MODEL: tuple(urls)}, "internal_key": "internal", **settings}
        yield stack.enter_context(running_api(api.settings.replace(**settings)))


def ask(client: openai.OpenAI, model: str = "tiny-random", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, **options)


def test_a_base_is_asked_by_id_and_answers_by_the_name_that_was_used(
    api: Api, tenant: Tenant
) -> None:
    backend = FakeBackend()
    with gateway(api, backend) as front, front.client(tenant) as client:
        reply = ask(client, "gpt-4o-mini", temperature=0.5, extra_body={"top_k": 3})
        assert reply.model == "gpt-4o-mini"
        assert reply.choices[0].message.content == "Hello from fake with ünicode"
        assert client.completions.create(model="tiny-random", prompt="x").model == "tiny-random"
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=MESSAGES
        )
        assert raw.headers["openai-model"] == "tiny-random"
    body, headers = backend.requests[0]
    asked = {"model": "tiny-random", "messages": MESSAGES, "temperature": 0.5, "top_k": 3}
    # A stream, so that what was computed is known also if the client leaves before the end.
    usage = {"include_usage": True, "continuous_usage_stats": True}
    assert body == {**asked, "stream": True, "stream_options": usage}
    assert headers["authorization"] == "Bearer internal"
    assert headers[schema.HEADER] == schema.REVISION
    assert headers["x-luthier-cache-salt"] == tenant.project_id
    assert headers["x-request-id"].startswith("req_")
    assert "x-luthier-adapter-sha256" not in headers


def test_a_tuned_model_is_asked_by_its_adapter_with_what_it_must_hash_to(
    api: Api, tenant: Tenant
) -> None:
    backend, model = FakeBackend(), api.tuned_model(tenant, b"the adapter")
    with gateway(api, backend) as front, front.client(tenant) as client:
        assert ask(client, model.name).model == model.name
    body, headers = backend.requests[0]
    assert body["model"] == model.artifact_id
    assert headers["x-luthier-adapter-bytes"] == str(len(b"the adapter"))
    assert headers["x-luthier-artifact-kind"] == "lora"
    assert len(headers["x-luthier-adapter-sha256"]) == 64
    assert tenant.key not in str(headers)


@pytest.mark.parametrize("cut", [None, 1, 7, 100])
def test_a_stream_arrives_by_events_with_the_user_s_name(
    api: Api, tenant: Tenant, cut: int | None
) -> None:
    model = api.tuned_model(tenant)
    with gateway(api, FakeBackend(cut=cut)) as front, front.client(tenant) as client:
        chunks = list(ask(client, model.name, stream=True))
        text = "".join(c.choices[0].delta.content for c in chunks)
        assert text == "Hello from fake with ünicode"
        assert {c.model for c in chunks} == {model.name}
        with front.http(tenant) as http:
            body = {"model": model.name, "messages": MESSAGES, "stream": True}
            raw = http.post("/v1/chat/completions", json=body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["cache-control"] == "no-cache"
    assert raw.text.endswith("data: [DONE]\n\n")
    assert model.artifact_id not in raw.text


def test_only_who_asks_for_a_stream_s_usage_gets_it(api: Api, tenant: Tenant) -> None:
    backend = FakeBackend()
    with gateway(api, backend) as front, front.client(tenant) as client:
        plain = list(ask(client, stream=True))
        assert all("usage" not in chunk.model_fields_set and chunk.choices for chunk in plain)
        *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
        assert all("usage" in chunk.model_fields_set and not chunk.usage for chunk in chunks)
        assert last.choices == []
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 5)
        each = {"include_usage": True, "continuous_usage_stats": True}
        assert all(chunk.usage for chunk in ask(client, stream=True, stream_options=each))
    assert {body["stream_options"]["include_usage"] for body, _ in backend.requests} == {True}


def test_malformed_stream_options_are_the_backend_s_to_refuse(api: Api, tenant: Tenant) -> None:
    backend = FakeBackend(answer=openai_error(400, "no object"))
    with (
        gateway(api, backend) as front,
        front.client(tenant) as client,
        pytest.raises(openai.BadRequestError, match="no object"),
    ):
        ask(client, stream=True, extra_body={"stream_options": 7})
    assert backend.requests[0][0]["stream_options"] == 7


def test_a_stream_that_breaks_ends_with_an_error_event(api: Api, tenant: Tenant) -> None:
    with gateway(api, FakeBackend(breaks_after=2)) as front, front.client(tenant) as client:
        stream = ask(client, stream=True)
        with pytest.raises(openai.APIError, match="reply broke off"):
            list(stream)


def test_a_stream_that_ends_too_early_is_no_whole_one(api: Api, tenant: Tenant) -> None:
    """As of an inference server that was told to stop in the middle of it."""
    with gateway(api, FakeBackend(ends_after=2)) as front, front.client(tenant) as client:
        stream = ask(client, stream=True)
        with pytest.raises(openai.APIError, match="reply broke off"):
            list(stream)


@pytest.mark.parametrize("name", ["nothing", "ft:tiny-random:acme::nothing1", "a`b", "", "ü" * 300])
def test_an_unknown_model_is_404_and_no_backend_hears_of_it(
    api: Api, tenant: Tenant, name: str
) -> None:
    backend = FakeBackend()
    with gateway(api, backend) as front, front.client(tenant) as client:
        foreign = api.tuned_model(api.tenant()).name
        for model in (name, foreign):
            with pytest.raises(openai.NotFoundError) as caught:
                ask(client, model)
            assert caught.value.body == {
                "message": f"The model `{model}` does not exist or you do not have access to it.",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }
    assert backend.requests == []


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": 7}, {"model": "a\0b"}])
def test_a_request_without_a_model_s_name_is_400(
    api: Api, tenant: Tenant, body: dict[str, Any]
) -> None:
    with api.http(tenant) as http:
        reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "model"


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("param", ["logit_bias", "stream_options", "unknown"])
def test_an_object_with_too_many_properties_is_400_and_no_backend_hears_of_it(
    api: Api, tenant: Tenant, path: str, param: str
) -> None:
    backend = FakeBackend()
    most = invalid_parameters.MAX_PROPERTIES
    asked = {"model": "tiny-random", "messages": MESSAGES, "prompt": "x"}
    with gateway(api, backend) as front, front.http(tenant) as http:
        for num, status in ((most, 200), (most + 1, 400)):
            body = {**asked, param: {str(i): "wrong" for i in range(num)}}
            reply = http.post(f"/v1/{path}", json=body)
            assert reply.status_code == status
    assert len(backend.requests) == 1
    assert reply.json()["error"] == {
        "message": f"Invalid '{param}': too many items. Expected at most {most}, but got {most + 1} instead.",
        "type": "invalid_request_error",
        "param": param,
        "code": "object_above_max_properties",
    }


def openai_error(status: int, message: str, **headers: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": "x", "code": "c"}
    return JSONResponse({"error": {**error, "secret": "inside"}}, status, headers)


def test_a_backend_s_own_errors_reach_the_user_under_the_user_s_name(
    api: Api, tenant: Tenant
) -> None:
    model = api.tuned_model(tenant)
    backend = FakeBackend()
    with gateway(api, backend) as front, front.client(tenant) as client:
        backend.answer = openai_error(400, f"{model.artifact_id} holds too many tokens")
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, model.name)
        assert caught.value.body == {
            "message": f"{model.name} holds too many tokens",
            "type": "invalid_request_error",
            "param": "x",
            "code": "c",
        }
        backend.answer = openai_error(429, "slow down", **{"retry-after": "7"})
        with pytest.raises(openai.RateLimitError) as limited:
            ask(client, model.name, stream=True)
        assert limited.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "answer",
    [
        openai_error(401, "the internal key is wrong"),
        PlainTextResponse("Traceback: secret", 500),
        JSONResponse({"detail": "secret"}, 422),
        JSONResponse(["secret"]),
        PlainTextResponse("secret"),
    ],
)
def test_a_backend_that_misbehaves_is_the_server_s_fault(
    api: Api, tenant: Tenant, answer: Response
) -> None:
    with gateway(api, FakeBackend(answer=answer)) as front, front.client(tenant) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client)
        assert caught.value.status_code == 500
        assert "secret" not in caught.value.message
        assert "internal key" not in caught.value.message


def test_the_next_backend_takes_over_when_one_is_down_or_busy(api: Api, tenant: Tenant) -> None:
    up, busy = FakeBackend("up"), FakeBackend("busy", answer=openai_error(503, "loading"))
    models = [api.tuned_model(tenant).name for _ in range(8)]
    with gateway(api, up, busy, dead=2) as front, front.client(tenant) as client:
        answers = {ask(client, model).choices[0].message.content for model in models}
    assert answers == {"Hello from up with ünicode"}
    assert busy.requests


def test_an_adapter_stays_on_one_backend(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(tenant).name
    backends = [FakeBackend(str(i)) for i in range(3)]
    with gateway(api, *backends) as front, front.client(tenant) as client:
        for _ in range(6):
            ask(client, model)
    assert sorted(len(backend.requests) for backend in backends) == [0, 0, 6]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_whole_reply_that_breaks_off_is_an_error(api: Api, tenant: Tenant, path: str) -> None:
    backend = FakeBackend(breaks_after=3)
    body = {"model": "tiny-random", "messages": MESSAGES, "prompt": "x"}
    with gateway(api, backend) as front, front.http(tenant) as http:
        reply = http.post(path, json=body)
    assert reply.status_code == 503
    assert "broke off" in reply.json()["error"]["message"]


def test_the_best_of_several_is_asked_for_as_a_whole(api: Api, tenant: Tenant) -> None:
    backend = FakeBackend()
    with gateway(api, backend) as front, front.client(tenant) as client:
        best = client.completions.create(model="tiny-random", prompt="x", best_of=3)
        assert best.choices[0].text == "Hello from fake with ünicode"
    assert "stream" not in backend.requests[0][0]


def test_with_no_backend_left_it_is_503_and_worth_another_try(api: Api, tenant: Tenant) -> None:
    with gateway(api, dead=2) as front, front.client(tenant) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client)
        assert caught.value.status_code == 503
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert "127.0.0.1" not in caught.value.message


def test_a_backend_that_is_loading_says_so_itself(api: Api, tenant: Tenant) -> None:
    backend = FakeBackend(answer=openai_error(503, "The model is being loaded"))
    with gateway(api, backend) as front, front.client(tenant) as client:
        with pytest.raises(openai.InternalServerError, match="being loaded") as caught:
            ask(client)
        assert int(caught.value.response.headers["retry-after"]) > 0


def test_a_base_that_nothing_serves_is_400(api: Api, tenant: Tenant) -> None:
    with gateway(api, FakeBackend()) as front, front.client(tenant) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, "smollm2-135m-instruct")
        assert caught.value.code == "model_not_served"


@contextmanager
def asking(front: Api, tenant: Tenant, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A client that has asked and hangs up at the end of the block."""
    content = json.dumps({"model": "tiny-random", **body}).encode()
    address = urlsplit(front.url)
    where = (address.hostname or "", address.port or 0)
    with socket.create_connection(where, timeout=5) as peer:
        peer.sendall(
            f"POST {path} HTTP/1.1\r\nhost: x\r\n".encode()
            + f"authorization: Bearer {tenant.key}\r\n".encode()
            + f"content-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        yield peer


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_the_backend_s_work(
    api: Api, tenant: Tenant, stream: bool
) -> None:
    backend = FakeBackend(is_endless=True)
    body = {"messages": [], "stream": stream}
    with gateway(api, backend) as front:
        with asking(front, tenant, "/v1/chat/completions", body) as peer:
            wait_until(lambda: backend.requests)
            if stream:
                assert peer.recv(1000).startswith(b"HTTP/1.1 200")
            assert backend.num_cancelled == 0
        wait_until(lambda: backend.num_cancelled == 1)


def complete_in(front: Api, tenant: Tenant, body: dict[str, Any]) -> dict[str, Any]:
    """What `inference.complete` gives, on wiring of its own."""
    caller = Caller("key_test", "project", tenant.project_id, "org", "acme")

    async def run() -> dict[str, Any]:
        bases = WatchedCatalogue(front.settings.data_dir, front.settings.aliases)
        async with wire(front.settings, ApiMetrics(), bases) as wiring:
            return await inference.complete(wiring, caller, body)

    return asyncio.run(run())


def test_the_api_itself_gets_a_completion_as_a_dict_or_the_error_raised(
    api: Api, tenant: Tenant
) -> None:
    backend = FakeBackend()
    body: dict[str, Any] = {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True}
    with gateway(api, backend) as front:
        reply = complete_in(front, tenant, body)
        assert reply["choices"][0]["message"]["content"] == "Hello from fake with ünicode"
        assert reply["model"] == "gpt-4o-mini"
        with pytest.raises(NotFound, match="does not exist"):
            complete_in(front, tenant, {**body, "model": "nothing"})
        backend.answer = openai_error(400, "tiny-random holds too many tokens")
        with pytest.raises(LuthierError) as caught:
            complete_in(front, tenant, body)
    assert caught.value.status == 400
    assert caught.value.message == "gpt-4o-mini holds too many tokens"
    assert (caught.value.param, caught.value.code) == ("x", "c")
