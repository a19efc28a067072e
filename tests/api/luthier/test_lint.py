from __future__ import annotations

import io
from typing import Any

import pytest

from api.luthier import lint
from api.luthier.lint_runs import LintRuns
from tests.api.stack import Api, Tenant
from tests.dataset.lint.rows import chat, chats
from tests.factories import jsonl

Json = dict[str, Any]


def upload(api: Api, tenant: Tenant, content: bytes, purpose: Any = "fine-tune") -> str:
    with api.client(tenant) as client:
        return client.files.create(file=("rows.jsonl", io.BytesIO(content)), purpose=purpose).id


def ask(api: Api, tenant: Tenant, file_id: str, **query: str) -> tuple[int, Json]:
    with api.http(tenant) as http:
        reply = http.get(f"/v1/luthier/files/{file_id}/lint", params=query, timeout=120)
    return reply.status_code, reply.json()


def test_a_file_is_linted_once(api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*chats(), chat(500, answer="Is that so? ")]
    file_id, other_id = upload(api, tenant, jsonl(rows)), upload(api, tenant, jsonl(chats(2)))
    status, report = ask(api, tenant, file_id, validation_file=other_id)
    assert status == 200, report
    training, validation = report["files"]
    assert (training["file_id"], validation["file_id"]) == (file_id, other_id)
    assert (training["name"], training["num_rows"], training["method"]) == (
        "rows.jsonl",
        101,
        "supervised",
    )
    assert training["counts"]["W205"] == 2
    (finding,) = [f for f in training["findings"] if f["code"] == "W401"]
    assert (finding["line"], finding["path"], finding["mend"]) == (
        101,
        "messages[1].content",
        "strip it",
    )
    assert (report["errors"], report["warnings"]) == (0, 3)

    async def never(*_: Any) -> Json:
        raise AssertionError

    monkeypatch.setattr(LintRuns, "run", never)
    assert ask(api, tenant, file_id, validation_file=other_id) == (200, report)


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"validation_file": "file-unknown"}, 404, "file-unknown"),
        ({"model": "no-such-model"}, 404, "The model 'no-such-model' does not exist"),
        ({"model": "tiny-random"}, 400, "is not on the machine of the api"),
        ({"method": "magic"}, 400, "Supported values are: 'supervised'"),
    ],
)
def test_what_cannot_be_asked(
    api: Api, tenant: Tenant, query: dict[str, str], status: int, said: str
) -> None:
    found = ask(api, tenant, upload(api, tenant, jsonl(chats(2))), **query)
    assert found[0] == status
    assert said in found[1]["error"]["message"]


def test_files_for_something_else_and_large_ones(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reply = ask(api, tenant, upload(api, tenant, b"x", "user_data"))
    assert "has the purpose 'user_data'" in reply["error"]["message"]
    monkeypatch.setattr(lint, "MAX_BYTES", 100)
    _, reply = ask(api, tenant, upload(api, tenant, jsonl(chats(2))))
    assert "run `luthier lint` on them" in reply["error"]["message"]


def test_a_foreign_file_is_unknown(api: Api, tenant: Tenant) -> None:
    file_id = upload(api, tenant, jsonl(chats(2)))
    assert ask(api, api.tenant(), file_id)[0] == 404
    assert (
        ask(api, api.tenant(), upload(api, api.tenant(), b"{}\n"), validation_file=file_id)[0]
        == 404
    )
