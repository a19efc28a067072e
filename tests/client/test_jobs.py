"""Following a job against a server whose list changes while it is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import openai
import pytest

from luthier import Luthier

from .fake_api import JOB, FakeApi, event, job

POLL_S = 0.01


def follow(client: Luthier, after: str | None = None, patience_s: float = 10) -> Iterator[str]:
    events = client.jobs.follow(
        JOB, after=after, poll_interval_s=POLL_S, max_poll_interval_s=0.05, patience_s=patience_s
    )
    return (event.id for event in events)


def ids(*numbers: int) -> list[str]:
    return [f"ftevent-{number}" for number in numbers]


def finish(api: FakeApi) -> None:
    api.jobs[JOB] = job(status="succeeded")


def test_finished_job_gives_all_events_oldest_first_over_many_pages(
    api: FakeApi, client: Luthier
) -> None:
    api.events = [event(n) for n in range(250)]
    finish(api)
    assert list(follow(client)) == ids(*range(250))
    assert api.num_polls == 1


def test_events_added_between_pages_come_once_and_in_order(api: FakeApi, client: Luthier) -> None:
    api.events = [event(n) for n in range(150)]

    def add_events() -> None:
        last = len(api.events)
        if last < 450:
            api.events += [event(n) for n in range(last, last + 60)]
        else:
            finish(api)

    api.before_events_page = add_events
    assert list(follow(client)) == ids(*range(len(api.events)))


def test_events_of_a_busy_writer_come_once_and_in_order(api: FakeApi, client: Luthier) -> None:
    def write() -> None:
        for n in range(400):
            api.events.append(event(n))
            time.sleep(0.0005)
        finish(api)

    writer = threading.Thread(target=write)
    writer.start()
    assert list(follow(client)) == ids(*range(400))
    writer.join()


def test_event_committed_late_below_known_ones_is_not_lost(api: FakeApi, client: Luthier) -> None:
    api.events = [event(n) for n in range(30) if n != 25]
    found = follow(client)
    first = [next(found) for _ in range(29)]
    api.events.insert(25, event(25))
    api.events.append(event(30))
    finish(api)
    assert first == ids(*(n for n in range(30) if n != 25))
    assert list(found) == ids(25, 30)


@pytest.mark.parametrize("last", [3, 40, 130])
def test_resuming_gives_only_what_came_after(api: FakeApi, client: Luthier, last: int) -> None:
    api.events = [event(n) for n in range(150)]
    found = follow(client, after=f"ftevent-{last}")
    assert next(found) == f"ftevent-{last + 1}"
    api.events += [event(n) for n in range(150, 160)]
    finish(api)
    assert list(found) == ids(*range(last + 2, 160))


def test_resuming_from_the_last_event_gives_nothing_when_the_job_is_over(
    api: FakeApi, client: Luthier
) -> None:
    api.events = [event(n) for n in range(150)]
    finish(api)
    assert list(follow(client, after="ftevent-149")) == []


def test_resuming_from_an_unknown_event_is_an_error(api: FakeApi, client: Luthier) -> None:
    api.events = [event(n) for n in range(3)]
    with pytest.raises(openai.OpenAIError, match="no event ftevent-99"):
        list(follow(client, after="ftevent-99"))


def test_dropped_connections_lose_and_double_nothing(api: FakeApi, client: Luthier) -> None:
    api.events = [event(n) for n in range(120)]

    def drop_each_fourth_page(pages: Iterator[int] = iter(range(1000))) -> None:
        page = next(pages)
        if page % 4 == 1:
            api.drop = 2
        api.events.append(event(len(api.events)))
        if page > 12:
            finish(api)

    api.before_events_page = drop_each_fourth_page
    assert list(follow(client)) == ids(*range(len(api.events)))


def test_server_that_stays_away_raises_after_patience(api: FakeApi, client: Luthier) -> None:
    api.drop = 1_000_000
    with pytest.raises(openai.APIConnectionError):
        list(follow(client, patience_s=0.1))


def test_unknown_job_raises_at_once(api: FakeApi, client: Luthier) -> None:
    api.jobs.clear()
    with pytest.raises(openai.NotFoundError):
        list(follow(client))


def test_quiet_job_is_asked_less_and_less_often(api: FakeApi, client: Luthier) -> None:
    threading.Timer(0.5, finish, (api,)).start()
    assert list(follow(client)) == []
    assert api.num_polls < 0.5 / POLL_S / 2
