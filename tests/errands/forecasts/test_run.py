"""Forecasts that are asked for, on a real api, with the real client and the process that reads training files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import update
from typer.testing import CliRunner, Result

from api.luthier import forecasts as route
from embedded.postgres import Postgres
from embedded.valkey import Valkey
from errands import attempts
from errands.errands import Errands
from errands.forecasts import run as forecast_run
from errands.transfers import process
from errands.transfers.process import TransferRefused
from luthier import Luthier
from luthier.cli import app
from luthier.cli import jobs as cli_jobs
from luthier.forecasts import Forecast
from storage import queue
from storage.forecasts import forecasts, hosts
from storage.forecasts.forecasts import MAX_UNFINISHED, ForecastRow
from storage.forecasts.hosts import Host, WorkerRow
from storage.jobs.jobs import JobRow
from tests import servers
from tests.api.stack import Api, Tenant, running_api
from tests.factories import chat_row, colour_rows, jsonl
from worker.forecasting.__main__ import ForecastRequest, answer

REALLY = process.run


@dataclass
class ForecastScene:
    api: Api
    tenant: Tenant
    client: Luthier
    errands: Errands

    def file(self, rows: Any) -> str:
        content = ("rows.jsonl", rows if isinstance(rows, bytes) else jsonl(rows))
        return self.client.files.create(file=content, purpose="fine-tune").id

    def command(self, *words: str) -> Result:
        """`luthier …` with this project's key."""
        env = {"LUTHIER_BASE_URL": f"{self.api.url}/v1", "LUTHIER_API_KEY": self.tenant.key}
        return CliRunner().invoke(app, words, env=env)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Whatever is asked for inside is done by another thread."""
        is_over = threading.Event()

        def work() -> None:
            while not is_over.wait(0.05):
                forecast_run.run(self.errands, "any")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def made(self, rows: Any, **asked: Any) -> Forecast:
        with self.working():
            made = self.client.forecasts.create(
                model="tiny-random", training_file=self.file(rows), **asked
            )
            return self.client.forecasts.wait(made)


@pytest.fixture(scope="module")
def forecast_api(
    postgres: Postgres,
    database_template: str,
    valkey: Valkey,
    base_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("forecasts")
    own: dict[str, Any] = {
        "train_unserved": True,
        "api_url": "http://127.0.0.1:1",
        "internal_key": "internal",
        "bases_dir": base_path.parent,
        "token_prices": {"*": 1000.0},
        "hour_price": 3.6,
        "currency": "EUR",
    }
    with (
        servers.fresh_settings(postgres, database_template, valkey, folder, **own) as settings,
        running_api(settings) as api,
    ):
        yield api


@pytest.fixture
def scene(
    forecast_api: Api, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ForecastScene]:
    monkeypatch.setattr(queue.app.conf, "broker_url", broker_url)
    monkeypatch.setattr(process, "run", read_here)
    tenant, errands = forecast_api.tenant(), Errands(forecast_api.settings)
    client = Luthier(base_url=f"{forecast_api.url}/v1", api_key=tenant.key, max_retries=0)
    with client:
        yield ForecastScene(forecast_api, tenant, client, errands)
    errands.close()
    with forecast_api.sessions.begin() as session:
        session.execute(update(ForecastRow).values(status="failed", lease_expires_at=None))
        session.query(WorkerRow).delete()


def read_here(_errands: Errands, _lease: Any, request: Any, _folder: Path, **_: Any) -> Any:
    """What the process does, without its seconds of imports."""
    told = answer(ForecastRequest.model_validate(request))
    if "failed" in told:
        raise TransferRefused(told["code"], told["failed"], told["param"])
    return json.loads(json.dumps(told["done"]))


def labelled_rows(count: int) -> list[dict[str, Any]]:
    """What a row's answer is, a near row says, but for every eighth."""
    rows = []
    for number in range(count):
        word = "alpha" if number % 2 else "omega"
        answer = "odd" if number % 8 == 0 else word
        rows.append(chat_row(f"{word} {word} item {number}", answer))
    return rows


def test_a_forecast_is_exact_in_tokens_and_is_made_by_a_process_of_its_own(
    scene: ForecastScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "run", REALLY)
    asked: dict[str, Any] = {"n_epochs": 3, "batch_size": 2}
    method = {"type": "supervised", "supervised": {"hyperparameters": asked}}
    found = scene.made(colour_rows(10), method=method)
    assert (found.status, found.error, found.fine_tuning_job_id) == ("completed", None, None)
    told = found.forecast
    assert told is not None
    assert told["steps"] == {"total": 15, "per_epoch": 5}
    assert told["tokens"]["trained"] == 3 * told["tokens"]["per_epoch"] > told["tokens"]["learnt"]
    assert told["seconds"]["basis"]["interval"] == "guess"
    # The operator's table: a thousand for a million tokens, and a thousandth a second.
    price = told["tokens"]["trained"] / 1000 + told["seconds"]["p50"] / 1000
    assert told["price"]["p50"] == pytest.approx(price, rel=1e-3)
    assert told["price"]["currency"] == "EUR"
    assert told["gain"]["code"] == "vote"
    assert scene.client.forecasts.retrieve(found.id) == found
    assert [each.id for each in scene.client.forecasts.list()] == [found.id]


def test_copying_from_near_rows_is_what_tuning_has_to_beat(scene: ForecastScene) -> None:
    told = scene.made(labelled_rows(80)).forecast
    assert told is not None
    vote = told["gain"]["vote"]
    assert (vote["task"], vote["n"]) == ("class", 80)
    # All but the tenth of the rows whose answer is none that a near one has.
    assert vote["right"] == 70
    assert "gets 88% of 80 right" in told["gain"]["text"]


def test_what_a_job_would_fail_with_is_told(scene: ForecastScene) -> None:
    found = scene.made(colour_rows(3))
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.to_dict()["param"] == "training_file"
    assert found.error.code == "invalid_n_examples"
    method = {"type": "classification"}
    found = scene.made(colour_rows(12), method=method)
    assert found.error is not None
    assert found.error.to_dict()["param"] == "training_file"
    with pytest.raises(openai.BadRequestError, match="invalid training_file"):
        scene.client.forecasts.create(model="tiny-random", training_file="file-unknown")


def test_memory_is_held_against_the_largest_worker_and_jobs_are_refused(
    scene: ForecastScene,
) -> None:
    with scene.api.sessions.begin() as session:
        hosts.report(session, "small", Host("a small one", 2, False, 1000, "bf16"))
    told = scene.made(colour_rows(10)).forecast
    assert told is not None
    memory = told["memory"]
    assert (memory["fits"], memory["available_bytes"]) == (False, 1000)
    assert memory["would_fit"] == ["a smaller base"]
    file_id = scene.file(colour_rows(10))
    with pytest.raises(openai.BadRequestError) as refused:
        scene.client.fine_tuning.jobs.create(model="tiny-random", training_file=file_id)
    assert (refused.value.code, refused.value.param) == ("out_of_memory", "tuning")
    assert "The largest worker has 0.00 GB. What would fit: a smaller base." in str(refused.value)
    with scene.api.sessions.begin() as session:
        hosts.report(session, "large", Host("a large one", 2, False, 10**12, "bf16"))
    assert scene.client.fine_tuning.jobs.create(model="tiny-random", training_file=file_id).id


def test_a_large_one_is_in_progress_at_first_and_a_project_has_a_few_only(
    scene: ForecastScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "WAIT_S", 0.0)
    file_id = scene.file(colour_rows(10))
    asked = {"model": "tiny-random", "training_file": file_id}
    first = scene.client.forecasts.create(**asked)
    assert (first.status, first.forecast) == ("in_progress", None)
    for _ in range(MAX_UNFINISHED - 1):
        scene.client.forecasts.create(**asked)
    with pytest.raises(openai.BadRequestError, match="wait for one"):
        scene.client.forecasts.create(**asked)


def test_a_process_that_dies_is_tried_again_and_then_given_up(
    scene: ForecastScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "WAIT_S", 0.0)
    monkeypatch.setattr(process, "run", REALLY)
    monkeypatch.setattr(forecast_run, "COMMAND", ("false",))
    asked = scene.client.forecasts.create(
        model="tiny-random", training_file=scene.file(colour_rows(10))
    )
    for _ in range(attempts.MAX_CRASHES + 1):
        forecast_run.run(scene.errands, asked.id)
        with scene.api.sessions.begin() as session:
            row = forecasts.get(session, scene.tenant.project_id, asked.id)
            row.not_before = row.created_at
    found = scene.client.forecasts.retrieve(asked.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.code == "server_error"


def test_the_command_says_it_in_lines(scene: ForecastScene) -> None:
    with scene.working():
        done = scene.command(
            *("forecast", scene.file(colour_rows(10)), "--model", "tiny-random"),
            *("--n-epochs", "3", "--batch-size", "2"),
        )
    assert done.exit_code == 0, done.output
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["steps"] == "15 of 2 examples"
    assert "a guess: none like it was measured" in lines["time"]
    assert lines["price"].endswith("EUR)") or " EUR (" in lines["price"]
    with scene.working():
        done = scene.command("forecast", scene.file(colour_rows(3)), "--model", "tiny-random")
    assert done.exit_code == 1
    assert "such a job would fail" in done.output
    table = scene.command("calibration").stdout.splitlines()
    assert any(line.split()[:3] == ["month", "method", "kind"] for line in table)


def test_a_new_job_s_forecast_is_told_by_the_command(
    scene: ForecastScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_jobs, "FORECAST_PATIENCE_S", 60.0)
    made = scene.made(colour_rows(10))

    def attach() -> None:
        """As the worker does, once the job is there."""
        of_project = JobRow.project_id == scene.tenant.project_id
        num_jobs = 0
        while not num_jobs:
            with scene.api.sessions.begin() as session:
                values = update(JobRow).where(of_project).values(forecast={"id": made.id})
                num_jobs = len(session.scalars(values.returning(JobRow.id)).all())

    thread = threading.Thread(target=attach)
    thread.start()
    done = scene.command("jobs", "create", made.training_file, "--model", "tiny-random")
    thread.join()
    assert done.exit_code == 0, done.output
    assert made.forecast is not None
    assert f"Forecast: {made.forecast['text']}" in done.stdout
