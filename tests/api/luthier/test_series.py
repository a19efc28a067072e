from __future__ import annotations

import pytest

from storage.jobs import events
from tests.api.fine_tuning import stream_reader
from tests.api.stack import Api, Tenant


def tell(api: Api, job_id: str, values: dict[int, dict[str, float | None]]) -> None:
    """Each step's."""
    with api.sessions.begin() as session:
        for step, of_step in values.items():
            data = {"step": step, "total_steps": 400, "num_tokens": 7 * step, **of_step}
            events.add(session, job_id, f"step:{step}", f"Step {step}", type="metrics", data=data)


def test_every_value_has_its_points_in_the_order_of_the_steps(
    api: Api, tenant: Tenant, job_id: str
) -> None:
    third = {"train_loss": 1.5, "valid_loss": 2.0}
    tell(api, job_id, {1: {"train_loss": 2.5}, 2: {"train_loss": None}, 3: {**third}})
    with api.http(tenant) as http:
        told = http.get(f"/v1/luthier/fine_tuning/jobs/{job_id}/series").json()
        newest = http.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"][0]
    assert told["metrics"] == {
        "train_loss": {"steps": [1, 3], "values": [2.5, 1.5]},
        "valid_loss": {"steps": [3], "values": [2.0]},
    }
    assert told["total_steps"] == 400
    assert told["last_event_id"] == newest["id"]
    assert told["is_thinned"] is False


def test_a_long_job_s_curve_keeps_its_spikes(api: Api, tenant: Tenant, job_id: str) -> None:
    losses = {step: 99.0 if step == 37 else 100.0 / step for step in range(1, 101)}
    tell(api, job_id, {step: {"train_loss": loss} for step, loss in losses.items()})
    with api.http(tenant) as http:
        url = f"/v1/luthier/fine_tuning/jobs/{job_id}/series"
        told = http.get(url, params={"max_points": 20}).json()
    curve = told["metrics"]["train_loss"]
    points = list(zip(curve["steps"], curve["values"], strict=True))
    assert told["is_thinned"] is True
    assert len(points) <= 20
    assert (37, 99.0) in points
    assert (1, 100.0) in points
    assert (100, 1.0) in points
    assert points == sorted(points)


def test_a_job_that_measured_nothing_yet_has_no_curves(
    api: Api, tenant: Tenant, job_id: str
) -> None:
    with api.http(tenant) as http:
        told = http.get(f"/v1/luthier/fine_tuning/jobs/{job_id}/series").json()
    assert told["metrics"] == {}
    assert told["total_steps"] is None


@pytest.mark.parametrize("max_points", ["9", "5001", "many"])
def test_how_many_points_is_bounded(api: Api, tenant: Tenant, job_id: str, max_points: str) -> None:
    with api.http(tenant) as http:
        url = f"/v1/luthier/fine_tuning/jobs/{job_id}/series"
        assert http.get(url, params={"max_points": max_points}).status_code == 400


def test_jobs_are_found_by_state_and_by_what_they_are_called(api: Api, tenant: Tenant) -> None:
    first, second = (stream_reader.job(api, tenant) for _ in range(2))
    with api.client(tenant) as client, api.http(tenant) as http:
        client.fine_tuning.jobs.cancel(second)

        def found(**params: object) -> set[str]:
            reply = http.get("/v1/fine_tuning/jobs", params=params)  # type: ignore[arg-type]
            assert reply.status_code == 200, reply.text
            return {job["id"] for job in reply.json()["data"]}

        assert found(status="cancelled") == {second}
        assert found(status=["cancelled", "queued", "validating_files", "running"]) == {
            first,
            second,
        }
        assert found(search=first[-9:].upper()) == {first}
        assert found(search="tiny-rand") == {first, second}
        assert found(search="%") == set()
        assert http.get("/v1/fine_tuning/jobs", params={"status": "odd"}).status_code == 400
