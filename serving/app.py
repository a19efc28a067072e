"""The HTTP face of an inference server: OpenAI's endpoints, health, metrics, and adapters on demand."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel, Field

from foundation.errors import InvalidRequest, Unauthenticated, Unavailable
from foundation.headers import ARTIFACT_BYTES, ARTIFACT_KIND, ARTIFACT_SHA256, CACHE_SALT, WEIGHT
from modeling.artifacts import lora
from serving.chat.completions import ChatCompletion
from serving.chat.request import ChatCompletionRequest
from serving.completions.completions import Completion
from serving.completions.first_tokens import first_tokens
from serving.completions.request import CompletionRequest, Prompt, encode_prompt
from serving.engine.constraints import Constraint
from serving.engine.sampling import TokenLogprob
from serving.engine.sequence import Generate
from storage import schema

from . import bodies, errors
from .adapters.ref import AdapterRef
from .classifications import ClassificationRequest, classify
from .events import EventStream, while_connected
from .requests import Wire
from .served_base import ServedBase, ServedModel
from .text_threads import TextThreads

POLL_INTERVAL_S = 0.5

Body = TypeVar("Body", bound=BaseModel)

log = logging.getLogger(__name__)
open_routes = APIRouter()
routes = APIRouter()


class State:
    """What the routes work with: the base once it is loaded, or why it will never be."""

    def __init__(self) -> None:
        self.served: ServedBase | None = None
        self.failure: Exception | None = None
        self.texts = TextThreads()

    @property
    def is_ready(self) -> bool:
        return self.served is not None and self.served.thread.is_alive


def create_app(
    load: Callable[[], Awaitable[ServedBase]],
    *,
    internal_key: str = "",
    on_failure: Callable[[], None] = lambda: None,
) -> FastAPI:
    """`load` is called in the background once the server is up. `on_failure` is called when the base
    cannot be loaded or the engine has died; the server then answers 503 until it is stopped."""
    state = State()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeper = asyncio.create_task(_keep(state, load, on_failure))
        yield
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        state.texts.close()
        if state.served is not None:
            await state.served.close()

    async def authenticate(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if internal_key and not hmac.compare_digest(
            given.encode(), f"Bearer {internal_key}".encode()
        ):
            raise Unauthenticated("Incorrect API key provided.", code="invalid_api_key")
        schema.check_caller(request.headers.get(schema.HEADER))
        # Says to `foundation.http_connection` that this connection is no stranger's.
        request.state.caller = "gateway"

    app = FastAPI(title="Luthier inference server", lifespan=lifespan, openapi_url=None)
    app.state.serving = state
    app.include_router(open_routes)
    app.include_router(routes, dependencies=[Depends(authenticate)])
    errors.install(app)
    return app


async def _keep(
    state: State, load: Callable[[], Awaitable[ServedBase]], on_failure: Callable[[], None]
) -> None:
    """Load the base, then watch over the engine."""
    try:
        state.served = await load()
        forgetting = asyncio.create_task(state.served.forget_deleted())
        try:
            while state.served.thread.is_alive:
                await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            forgetting.cancel()
            await asyncio.gather(forgetting, return_exceptions=True)
    except Exception as error:
        log.exception("the base cannot be served")
        state.failure = error
    on_failure()


def _state(request: Request) -> State:
    state: State = request.app.state.serving
    return state


def _served(request: Request) -> ServedBase:
    state = _state(request)
    if state.served is None:
        if state.failure is not None:
            raise Unavailable("The base model cannot be loaded.")
        raise Unavailable("The base model is still being loaded. Please try again.")
    return state.served


Served = Annotated[ServedBase, Depends(_served)]


class AdapterHeaders(BaseModel):
    """What the gateway says about the model that it resolved."""

    sha256: str | None = Field(None, alias=ARTIFACT_SHA256)
    size_bytes: int | None = Field(None, alias=ARTIFACT_BYTES)
    kind: str = Field(lora.KIND, alias=ARTIFACT_KIND)
    cache_salt: str = Field("", alias=CACHE_SALT)
    weight: int = Field(1, alias=WEIGHT, ge=1)


Headers = Annotated[AdapterHeaders, Header()]


async def _chat_body(request: Request, served: Served, headers: Headers) -> ChatCompletionRequest:
    return await _body(request, served, headers, ChatCompletionRequest)


async def _completion_body(request: Request, served: Served, headers: Headers) -> CompletionRequest:
    return await _body(request, served, headers, CompletionRequest)


async def _classification_body(
    request: Request, served: Served, headers: Headers
) -> ClassificationRequest:
    return await _body(request, served, headers, ClassificationRequest)


async def _body(
    request: Request, served: ServedBase, headers: AdapterHeaders, model: type[Body]
) -> Body:
    served.thread.admission.weigh(headers.cache_salt, headers.weight)
    content = await request.body()
    return await _state(request).texts.run(
        headers.cache_salt, lambda: bodies.parse(content, model), size_bytes=len(content)
    )


@open_routes.get("/healthz")
async def healthz() -> Wire:
    return {"status": "ok"}


@open_routes.get("/readyz")
async def readyz(request: Request) -> Response:
    is_ready = _state(request).is_ready
    body = {"status": "ready" if is_ready else "not ready"}
    return _json(body, 200 if is_ready else 503)


@open_routes.get("/metrics")
async def metrics(served: Served) -> Response:
    return Response(served.metrics.render(), media_type="text/plain; version=0.0.4")


@routes.get("/v1/models")
async def list_models(served: Served) -> Response:
    """The base, its other names, and the adapters at hand; others are loaded when they are named."""
    ids = [*sorted(served.names), *served.adapters.ids_in_ram, *served.whole_models.ids]
    models = [{"id": i, "object": "model", "created": 0, "owned_by": "luthier"} for i in ids]
    return _json({"object": "list", "data": models})


@routes.post("/v1/chat/completions")
async def create_chat_completion(
    body: Annotated[ChatCompletionRequest, Depends(_chat_body)],
    request: Request,
    served: Served,
    headers: Headers,
) -> Response:
    body.check_supported()
    served.thread.check_room(headers.cache_salt, body.n or 1)
    prompt, held, shown_ids = await _state(request).texts.run(
        headers.cache_salt,
        partial(body.read, served.template, max_seq_len=served.engine.max_seq_len),
        # It has been read, so this does not wait.
        size_bytes=len(await request.body()),
    )
    constraint = await held.compile(partial(served.grammars.compile, project=headers.cache_salt))
    model = await _find_writer(served, body.model, headers)
    params = body.sampling(
        num_choices=body.n or 1,
        vocab_size=served.engine.vocab_size,
        num_logprobs=body.num_logprobs,
    )
    deltas = served.generate(
        model.thread,
        [
            Generate(
                prompt=prompt,
                max_tokens=body.max_new_tokens,
                adapter=model.adapter,
                sampling=sampling,
                stop=body.stop_strings,
                constraint=constraint,
                shown_ids=shown_ids,
                cache_salt=headers.cache_salt,
            )
            for sampling in params
        ],
    )
    completion = ChatCompletion(
        body, len(prompt), served.vocabulary, held.dialect, shows_thoughts=held.shows_thoughts
    )
    if body.stream:
        return EventStream(completion.stream(deltas))
    return _json(await while_connected(request.receive, completion.collect(deltas)))


@routes.post("/v1/completions")
async def create_completion(
    body: Annotated[CompletionRequest, Depends(_completion_body)],
    request: Request,
    served: Served,
    headers: Headers,
) -> Response:
    body.check_supported()
    given = body.given_prompts
    served.thread.check_room(headers.cache_salt, len(given) * body.num_candidates)
    # Many short prompts are as much work as a long one, and each of them is a turn of its own.
    size_bytes = sum(map(len, given))
    encode = partial(_encode, request, served, headers.cache_salt, size_bytes=size_bytes)
    prompts = [await encode(one) for one in given]
    constraint = await _constraint(served, body, headers)
    model = await _find_writer(served, body.model, headers)
    params = body.sampling(
        num_choices=body.num_candidates,
        vocab_size=served.engine.vocab_size,
        num_logprobs=body.num_logprobs,
    )
    # Before the rest is let in: what was let in must begin, and count, at once.
    of_first_tokens = await _first_tokens(served, body, prompts, model, headers.cache_salt)
    shown_ids = served.tokenizer.special_ids if body.shows_special else frozenset[int]()
    deltas = served.generate(
        model.thread,
        [
            Generate(
                prompt=prompt.token_ids,
                max_tokens=body.max_new_tokens,
                adapter=model.adapter,
                sampling=sampling,
                stop=body.stop_strings,
                constraint=constraint,
                shown_ids=shown_ids,
                cache_salt=headers.cache_salt,
                num_prompt_logprobs=body.num_prompt_logprobs,
            )
            for prompt in prompts
            for sampling in params
        ],
    )
    completion = Completion(body, prompts, served.vocabulary, of_first_tokens)
    if body.stream:
        return EventStream(completion.stream(deltas))
    return _json(await while_connected(request.receive, completion.collect(deltas)))


@routes.post("/v1/luthier/classifications")
async def create_classification(
    body: Annotated[ClassificationRequest, Depends(_classification_body)],
    request: Request,
    served: Served,
    headers: Headers,
) -> Response:
    inputs, max_seq_len = body.inputs, served.engine.max_seq_len
    served.thread.check_room(headers.cache_salt, max(len(body.labels), 1))
    size_bytes = len(await request.body())
    prompts = [
        await _state(request).texts.run(
            headers.cache_salt,
            partial(body.prompt, one, served.template, max_seq_len=max_seq_len),
            size_bytes=size_bytes,
        )
        for one in inputs
    ]
    model = await _find(served, body.model, headers)
    judging = classify(served, body, prompts, model=model, cache_salt=headers.cache_salt)
    return _json(await while_connected(request.receive, judging))


async def _constraint(
    served: ServedBase, body: CompletionRequest, headers: AdapterHeaders
) -> Constraint | None:
    """What the reply is held to, if it has any tokens."""
    source = body.grammar_source
    if source is None or body.max_new_tokens == 0:
        return None
    return await served.grammars.compile(source, headers.cache_salt)


async def _encode(
    request: Request, served: ServedBase, project: str, given: str | list[int], *, size_bytes: int
) -> Prompt:
    """One of the request's prompts; `size_bytes` is that of all of them."""
    return await _state(request).texts.run(
        project,
        lambda: encode_prompt(given, served.tokenizer, max_seq_len=served.engine.max_seq_len),
        size_bytes=size_bytes,
    )


async def _first_tokens(
    served: ServedBase,
    body: CompletionRequest,
    prompts: Sequence[Prompt],
    model: ServedModel,
    cache_salt: str,
) -> Mapping[int, TokenLogprob]:
    if body.num_prompt_logprobs is None:
        return {}
    return await first_tokens(
        model.thread,
        [prompt.token_ids[0] for prompt in prompts if prompt.token_ids],
        start_id=served.tokenizer.start_id,
        num_top=body.num_prompt_logprobs,
        adapter=model.adapter,
        cache_salt=cache_salt,
    )


class Prefetch(BaseModel):
    sha256: str
    size_bytes: int
    kind: str = lora.KIND


@routes.post("/v1/luthier/adapters/{adapter_id}/prefetch")
async def prefetch_adapter(adapter_id: str, body: Prefetch, served: Served) -> Response:
    """Load an adapter before anybody asks for it."""
    await served.prefetch(AdapterRef(adapter_id, body.sha256, body.size_bytes, body.kind))
    return _json({"id": adapter_id, "object": "luthier.adapter", "status": "loaded"})


@routes.delete("/v1/luthier/adapters/{adapter_id}")
async def unload_adapter(adapter_id: str, served: Served) -> Response:
    """Forget an adapter, which was deleted; requests that still use it end with an error."""
    await served.unload(adapter_id)
    return _json({"id": adapter_id, "object": "luthier.adapter", "status": "unloaded"})


async def _find(served: ServedBase, model: str, headers: AdapterHeaders) -> ServedModel:
    return await served.find(
        model,
        sha256=headers.sha256,
        size_bytes=headers.size_bytes,
        kind=headers.kind,
        project=headers.cache_salt,
    )


async def _find_writer(served: ServedBase, model: str, headers: AdapterHeaders) -> ServedModel:
    """As `_find`. Raises `InvalidRequest` for a model that writes no text."""
    found = await _find(served, model, headers)
    if found.head is not None:
        raise InvalidRequest(
            f"The model {model} has a head in the place of the layer that writes: it says something about a text "
            "and writes none.",
            param="model",
            code="model_not_servable",
        )
    return found


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
