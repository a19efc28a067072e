from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from api.organization.usage import UNUSED
from storage.organization import usage
from storage.organization.usage import UsageKey, Used
from tests.api.stack import Api, Tenant

DAY_S = 86_400
HOUR_S = 3600
T0_S = 1_700_000_000 // DAY_S * DAY_S


@pytest.fixture
def admin(api: Api) -> Iterator[openai.OpenAI]:
    url = f"{api.url}/v1"
    with openai.OpenAI(base_url=url, api_key="", admin_api_key=api.admin_key()) as client:
        yield client


@pytest.fixture
def used(api: Api) -> tuple[Tenant, Tenant]:
    """Two projects that used something in the first, the second and the fourth hour of a day."""
    one, other = api.tenant(), api.tenant()

    def key(tenant: Tenant, minute: int, model: str, is_batch: bool = False) -> UsageKey:
        return UsageKey(T0_S + 60 * minute, tenant.project_id, "key_a", model, is_batch)

    with api.sessions.begin() as session:
        usage.add(
            session,
            {
                key(one, 5, "a"): Used(10, 5, 1, 1),
                key(one, 65, "b"): Used(100, 0, 2, 1),
                key(one, 66, "b", True): Used(1000, 0, 3, 1),
                key(other, 190, "a"): Used(10_000, 0, 4, 2),
            },
        )
    return one, other


def read(admin: openai.OpenAI, used: tuple[Tenant, Tenant], **query: Any) -> Any:
    query = {
        "start_time": T0_S,
        "end_time": T0_S + DAY_S,
        "project_ids": [tenant.project_id for tenant in used],
        **query,
    }
    return admin.admin.organization.usage.completions(**query)


def tokens(page: Any) -> list[list[int]]:
    return [[result.input_tokens for result in bucket.results] for bucket in page.data]


def test_a_day_is_one_bucket_with_everything_in_it(
    admin: openai.OpenAI, used: tuple[Tenant, Tenant]
) -> None:
    page = read(admin, used)
    (bucket,) = page.data
    assert (bucket.start_time, bucket.end_time) == (T0_S, T0_S + DAY_S)
    (result,) = bucket.results
    assert result.object == "organization.usage.completions.result"
    assert (result.input_tokens, result.output_tokens) == (11_110, 10)
    assert (result.input_cached_tokens, result.num_model_requests) == (5, 5)
    assert result.model is result.project_id is result.batch is None
    assert not page.has_more
    assert page.next_page is None


def test_hours_come_in_pages_with_those_that_used_nothing(
    admin: openai.OpenAI, used: tuple[Tenant, Tenant]
) -> None:
    query: Any = {"bucket_width": "1h", "end_time": T0_S + 5 * HOUR_S, "limit": 2}
    first = read(admin, used, **query)
    assert tokens(first) == [[10], [1100]]
    second = read(admin, used, page=first.next_page, **query)
    assert tokens(second) == [[], [10_000]]
    third = read(admin, used, page=second.next_page, **query)
    assert tokens(third) == [[]]
    assert third.data[0].start_time == T0_S + 4 * HOUR_S
    assert not third.has_more


def test_groups_and_filters(admin: openai.OpenAI, used: tuple[Tenant, Tenant]) -> None:
    one, other = used
    (bucket,) = read(admin, used, group_by=["model", "batch", "user_id"]).data
    assert [(r.model, r.batch, r.input_tokens) for r in bucket.results] == [
        ("a", False, 10_010),
        ("b", False, 100),
        ("b", True, 1000),
    ]
    (bucket,) = read(admin, used, group_by=["project_id", "api_key_id"]).data
    assert {(r.project_id, r.api_key_id, r.input_tokens) for r in bucket.results} == {
        (one.project_id, "key_a", 1110),
        (other.project_id, "key_a", 10_000),
    }
    assert tokens(read(admin, used, models=["b"])) == [[1100]]
    assert tokens(read(admin, used, batch=True)) == [[1000]]
    assert tokens(read(admin, used, batch=False, project_ids=[one.project_id])) == [[110]]
    assert tokens(read(admin, used, user_ids=["user-1"])) == [[]]
    assert tokens(read(admin, used, api_key_ids=["key_b"])) == [[]]


def test_the_beginning_of_time_costs_no_pages_of_nothing(
    api: Api, admin: openai.OpenAI, used: tuple[Tenant, Tenant]
) -> None:
    page = read(admin, used, start_time=0, limit=1)
    assert page.data[0].start_time >= T0_S
    assert read(admin, used, start_time=0, end_time=0).data == []
    assert read(admin, used, limit=0, page="page").data == []
    assert read(admin, used, page="page").data == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({}, "start_time"),
        ({"start_time": "soon"}, "start_time"),
        ({"start_time": -1}, "start_time"),
        ({"start_time": 0, "bucket_width": "1y"}, "bucket_width"),
        ({"start_time": 0, "limit": 32}, "limit"),
        ({"start_time": 0, "limit": 169, "bucket_width": "1h"}, "limit"),
        ({"start_time": 0, "limit": -1}, "limit"),
        ({"start_time": 0, "group_by[]": "colour"}, "group_by[].0"),
    ],
)
def test_a_question_that_makes_no_sense_is_400(api: Api, query: Any, param: str) -> None:
    headers = {"authorization": f"Bearer {api.admin_key()}"}
    reply = httpx.get(
        f"{api.url}/v1/organization/usage/completions",
        params=query,
        headers=headers,
        trust_env=False,
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_what_is_not_offered_was_not_used_and_nothing_costs_anything(
    api: Api, admin: openai.OpenAI, used: tuple[Tenant, Tenant]
) -> None:
    organization = admin.admin.organization.usage
    for kind in UNUSED:
        page = getattr(organization, kind)(start_time=T0_S, end_time=T0_S + DAY_S)
        assert [bucket.results for bucket in page.data] == [[]]
    costs = organization.costs(start_time=T0_S, end_time=T0_S + DAY_S, limit=180)
    assert [bucket.results for bucket in costs.data] == [[]]


@pytest.mark.parametrize("path", ["usage/completions", "usage/embeddings", "costs"])
def test_a_project_s_key_does_not_read_usage(api: Api, tenant: Tenant, path: str) -> None:
    with api.http(tenant) as http:
        assert http.get(f"/v1/organization/{path}?start_time=0").status_code == 403
