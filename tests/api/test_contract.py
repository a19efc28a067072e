"""Whatever it is sent, the api answers as its OpenAPI document says (schemathesis).

Each operation gets bodies and parameters that fit the document, ones that do not, and ones that name things
that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api import database
from api.app import create_app
from api.luthier import forecasts as forecast_route
from foundation.settings import Settings
from storage.forecasts import forecasts
from storage.jobs import jobs
from storage.organization import api_keys, sessions
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.stack import Api, Tenant, running, running_api
from tests.factories import colour_rows, jsonl
from tests.receiver import Receiver, receiver

NUM_CASES = 2000
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
TIMEOUT_S = 20

Operation = APIOperation[Any, Any, Any, Any]
AnyCase = Case[Any]

SCHEMA = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
OPERATIONS: list[Operation] = [
    found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)
]
LABELS = [operation.label for operation in OPERATIONS]


@dataclass
class Things:
    """What paths may name: each is made when it is first asked for."""

    api: Api
    tenant: Tenant
    client: openai.OpenAI
    hooks: Receiver

    def of(self, operation: Operation) -> dict[str, str]:
        names = [parameter.name for parameter in operation.path_parameters]
        made: dict[str, str] = {}
        for name in names:
            make: Callable[[dict[str, str]], str] = getattr(self, f"_{name}")
            made[name] = make(made)
        return made

    def fill_in(self, case: AnyCase) -> AnyCase:
        """The case, naming things that are there where its body names any."""
        if isinstance(case.body, dict):
            known: dict[str, Callable[[], str]] = {
                "model": lambda: "tiny-random",
                "training_file": lambda: self._file_id(None),
                "validation_file": lambda: self._file_id(None),
                "url": lambda: self.hooks.url,
            }
            case.body |= {key: known[key]() for key in known if key in case.body}
        return case

    def _file_id(self, _: object) -> str:
        file = self.client.files.create(
            file=("rows.jsonl", jsonl(colour_rows(10))), purpose="fine-tune"
        )
        return file.id

    def _upload_id(self, _: object) -> str:
        upload = self.client.uploads.create(
            bytes=3, filename="x", mime_type="text/plain", purpose="user_data"
        )
        return upload.id

    def _fine_tuning_job_id(self, _: object) -> str:
        # Ended, so that the stream of its events ends.
        job = self.client.fine_tuning.jobs.create(
            model="tiny-random", training_file=self._file_id(None)
        )
        return self.client.fine_tuning.jobs.cancel(job.id).id

    def _fine_tune_id(self, _: object) -> str:
        body = {"model": "tiny-random", "training_file": self._file_id(None)}
        with self.api.http(self.tenant) as http:
            made = http.post("/v1/fine-tunes", json=body).raise_for_status().json()
            http.post(f"/v1/fine-tunes/{made['id']}/cancel").raise_for_status()
        return str(made["id"])

    def _model(self, _: object) -> str:
        return self.api.tuned_model(self.tenant).name

    _fine_tuned_model_checkpoint = _model

    def _permission_id(self, made: dict[str, str]) -> str:
        (permission,) = self.client.fine_tuning.checkpoints.permissions.create(
            made["fine_tuned_model_checkpoint"], project_ids=[self.api.tenant().project_id]
        )
        return permission.id

    def _alias(self, _: object) -> str:
        body = {"alias": "an-alias", "model": "tiny-random"}
        with self.api.http(self.tenant) as http:
            http.post("/v1/luthier/aliases", json=body).raise_for_status()
        return "an-alias"

    def _batch_id(self, _: object) -> str:
        batch = self.client.batches.create(
            input_file_id="file-any", endpoint="/v1/chat/completions", completion_window="24h"
        )
        return batch.id

    def _completion_id(self, _: object) -> str:
        completion = self.client.chat.completions.create(
            model="tiny-random", messages=[{"role": "user", "content": "x"}], store=True
        )
        return completion.id

    def _response_id(self, _: object) -> str:
        return self.client.responses.create(model="tiny-random", input="x").id

    def _forecast_id(self, _: object) -> str:
        job_id = self._fine_tuning_job_id(None)
        with self.api.sessions.begin() as session:
            asked = jobs.asked(jobs.get(session, self.tenant.project_id, job_id))
            return forecasts.create(session, project_id=self.tenant.project_id, asked=asked).id

    def _conversation_id(self, _: object) -> str:
        return self.client.conversations.create().id

    def _item_id(self, made: dict[str, str]) -> str:
        added = self.client.conversations.items.create(
            made["conversation_id"], items=[{"role": "user", "content": "x"}]
        )
        return added.data[0].id or ""

    def _webhook_endpoint_id(self, _: object) -> str:
        endpoint = self.client.webhooks.create(
            name="x", url=self.hooks.url, event_types=["batch.failed"]
        )
        return endpoint.id

    def _export_id(self, _: object) -> str:
        path = f"/v1/luthier/models/{self._model(None)}/export"
        return self._transfer_id(path, {"format": "peft"}, "exports")

    def _session_id(self, _: object) -> str:
        with self.api.sessions.begin() as session:
            caller = api_keys.find_caller(session, self.tenant.key)
            assert caller is not None
            return sessions.create(session, caller.key_id, sessions.new_token()).id

    def _import_id(self, _: object) -> str:
        body = {"model": "tiny-random", "file_id": self._file_id(None)}
        return self._transfer_id("/v1/luthier/imports", body, "imports")

    def _transfer_id(self, path: str, body: dict[str, str], noun: str) -> str:
        # Ended, because of those that have not a project may have a few only.
        with self.api.http(self.tenant) as http:
            made = http.post(path, json=body).raise_for_status().json()
            http.post(f"/v1/luthier/{noun}/{made['id']}/cancel").raise_for_status()
        return str(made["id"])

    def _project_id(self, _: object) -> str:
        return self.client.admin.organization.projects.create(name="x").id

    def _service_account_id(self, made: dict[str, str]) -> str:
        accounts = self.client.admin.organization.projects.service_accounts
        return accounts.create(made["project_id"], name="x").id

    def _api_key_id(self, made: dict[str, str]) -> str:
        self._service_account_id(made)
        keys = self.client.admin.organization.projects.api_keys
        return next(iter(keys.list(made["project_id"]))).id

    def _rate_limit_id(self, made: dict[str, str]) -> str:
        limits = self.client.admin.organization.projects.rate_limits
        return next(iter(limits.list_rate_limits(made["project_id"]))).id

    def _key_id(self, _: object) -> str:
        return self.client.admin.organization.admin_api_keys.create(name="x").id


@pytest.fixture(scope="module")
def things(api: Api) -> Iterator[Things]:
    with (
        pytest.MonkeyPatch.context() as patch,
        receiver() as hooks,
        running(FakeBackend().app()) as backend,
    ):
        # Nobody makes them here.
        patch.setattr(forecast_route, "WAIT_S", 0.0)
        settings = api.settings.replace(
            backends={"tiny-random": (backend,)},
            internal_key="internal",
            webhook_allow_private=True,
        )
        with running_api(settings) as front:
            tenant = front.tenant()
            client = front.client(tenant, admin_key=front.admin_key())
            with client:
                yield Things(front, tenant, client, hooks)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def try_out(things: Things, session: requests.Session, operation: Operation, num_cases: int) -> int:
    """Send cases of all kinds and check the answers; returns how many were sent."""
    is_admin = operation.path.startswith("/v1/organization/")
    key = things.client.admin_api_key if is_admin else things.tenant.key
    named = things.of(operation)
    # The first kind is tried first.
    fitting = operation.as_strategy(GenerationMode.POSITIVE, path_parameters=named or None)
    kinds: list[st.SearchStrategy[AnyCase]] = [
        fitting.map(things.fill_in) if operation.body else fitting,
        operation.as_strategy(GenerationMode.NEGATIVE),
        operation.as_strategy(GenerationMode.POSITIVE),
    ]
    num_sent = 0

    @settings(
        max_examples=num_cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(kinds))
    def send(case: AnyCase) -> None:
        nonlocal num_sent
        num_sent += 1
        headers: dict[str, Any] = {"authorization": f"Bearer {key}"}
        reply = case.call(things.api.url, session, headers=headers, timeout=TIMEOUT_S)
        case.validate_response(reply, checks=CHECKS)

    send()
    return num_sent


@pytest.mark.parametrize("operation", OPERATIONS, ids=LABELS)
def test_operation_answers_as_documented(
    things: Things, session: requests.Session, operation: Operation
) -> None:
    try_out(things, session, operation, 1)


@pytest.mark.slow
def test_every_operation_answers_as_documented_at_length(
    things: Things, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of thousands of questions one may wait for long on a machine that is busy.
    monkeypatch.setattr(database, "DEADLINE_S", 60.0)
    num_each = -(-NUM_CASES // len(OPERATIONS)) + 10
    num_sent = 0
    wrong: list[str] = []
    for operation in OPERATIONS:
        try:
            num_sent += try_out(things, session, operation, num_each)
        except (schemathesis.errors.SchemathesisError, AssertionError, ExceptionGroup) as error:
            wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(wrong)
    assert num_sent >= NUM_CASES
