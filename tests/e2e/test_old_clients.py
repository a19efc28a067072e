"""Releases of the `openai` library that are years old, each doing the whole way in its own environment."""

from __future__ import annotations

import re

import pytest

from tests.e2e.old_clients import environment
from tests.e2e.old_clients.environment import Said
from tests.e2e.stack import Stack
from tests.factories import colour_rows, jsonl, prompt_rows

pytestmark = pytest.mark.slow

SINCE_1 = ("1.109.1", "2.34.0", "2.54.0")
BEFORE_1 = "0.28.1"
CHAT_ROWS = jsonl(colour_rows(12))
PROMPT_ROWS = jsonl(prompt_rows(12))


@pytest.fixture(scope="module", params=SINCE_1)
def said(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Said:
    """What a client since 1.0 said on its way."""
    release = environment.release(request.param)
    rows = tmp_path_factory.mktemp("rows") / "chat.jsonl"
    rows.write_bytes(CHAT_ROWS)
    said = environment.say(release, stack, "since_1.py", str(rows))
    assert said["version"] == request.param
    return said


@pytest.fixture(scope="module")
def said_of_old(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What a client before 1.0 said on its way."""
    release = environment.release(BEFORE_1)
    folder = tmp_path_factory.mktemp("rows")
    paths = (folder / "chat.jsonl", folder / "prompts.jsonl")
    for path, rows in zip(paths, (CHAT_ROWS, PROMPT_ROWS), strict=True):
        path.write_bytes(rows)
    said = environment.say(release, stack, "before_1.py", *map(str, paths))
    assert said["version"] == BEFORE_1
    return said


def test_a_file_comes_back_as_it_went_up(said: Said) -> None:
    assert said["file"] == ["chat.jsonl", "fine-tune", len(CHAT_ROWS), "processed"]
    assert said["content"].encode() == CHAT_ROWS


def test_a_job_is_followed_to_its_success(said: Said) -> None:
    assert said["created"] == ["fine_tuning.job", "validating_files", None]
    events = said["events"]
    assert events[0].startswith("Created fine-tuning job: ftjob-")
    assert events[-1] == "The job has successfully completed"
    steps = [message for message in events if message.startswith("Step ")]
    # Each of them once, in their order, though they were read in pages while they came.
    assert [message.split(":")[0] for message in steps] == [f"Step {n}/36" for n in range(1, 37)]
    status, model, trained_tokens = said["finished"]
    assert status == "succeeded"
    assert re.fullmatch(r"ft:tiny-random:[\w-]+:old-code:\w{8}", model)
    assert trained_tokens > 0


def test_checkpoints_and_models_are_listed(said: Said) -> None:
    assert said["checkpoints"] == [36, 33, 30]
    assert {"tiny-random", said["finished"][1]} <= set(said["models"])


def test_the_tuned_model_answers_whole_and_streamed(said: Said) -> None:
    assert said["reply"] == ["It is blue.", "stop"]
    assert said["streamed"] == "It is blue."
    assert said["raw"] == "It is blue."


def test_a_cancelled_job_stays_so_and_is_listed_first(said: Said) -> None:
    assert (said["cancelled"], said["after"]) == ("cancelled", "cancelled")
    assert said["listed"] == [0, 1, 0]


def test_what_is_deleted_and_what_never_was_give_typed_errors(said: Said) -> None:
    assert said["file_deleted"]
    assert said["model_deleted"]
    assert said["errors"] == {
        "job": ["NotFoundError", "fine_tune_not_found", "fine_tune_id"],
        "file": ["NotFoundError", None, "id"],
        "model": ["NotFoundError", "model_not_found", None],
        "body": ["BadRequestError", None, "training_file"],
        "key": ["AuthenticationError", "invalid_api_key", None],
    }


def test_openai_0_28_uploads_under_the_given_name(said_of_old: Said) -> None:
    assert said_of_old["files"] == [
        ["chat.jsonl", "fine-tune", "processed"],
        ["prompts.jsonl", "fine-tune", "processed"],
    ]
    assert said_of_old["deleted"] == [True, True]


def test_openai_0_28_tunes_through_fine_tuning_jobs(said_of_old: Said) -> None:
    assert said_of_old["job_created"] == ["fine_tuning.job", "validating_files"]
    status, model = said_of_old["job_finished"]
    assert status == "succeeded"
    assert re.fullmatch(r"ft:tiny-random:[\w-]+:old-code:\w{8}", model)
    assert said_of_old["job_events"] == [
        "The job has successfully completed",
        "New fine-tuned model created",
    ]
    assert said_of_old["job_cancelled"] == "cancelled"
    assert said_of_old["jobs"] == [0, 1, 0]


def test_openai_0_28_chats_whole_streamed_and_async(said_of_old: Said) -> None:
    assert said_of_old["chat"] == "It is blue."
    assert said_of_old["chat_streamed"] == "It is blue."
    assert said_of_old["chat_async"] == "It is blue."


def test_openai_0_28_tunes_through_fine_tunes(said_of_old: Said) -> None:
    assert said_of_old["tune_created"][:2] == ["fine-tune", "pending"]
    streamed = said_of_old["tune_streamed"]
    assert streamed[0].startswith("Created fine-tune: ft-")
    assert streamed[-1] == "Fine-tune succeeded"
    epochs = [message for message in streamed if message.startswith("Completed epoch")]
    assert epochs == [f"Completed epoch {n}/20" for n in range(1, 21)]
    assert said_of_old["tune_events"] == streamed
    status, model = said_of_old["tune_finished"]
    assert status == "succeeded"
    assert re.fullmatch(r"tiny-random:ft-[\w-]+:old-code-[\d-]+", model)
    assert said_of_old["tune_cancelled"] == "cancelled"
    assert said_of_old["tunes"] == [True, 0]


def test_openai_0_28_reads_a_line_of_results_for_each_step(said_of_old: Said) -> None:
    header, *lines = said_of_old["tune_results"]
    assert header.startswith("step,elapsed_tokens,elapsed_examples,training_loss,")
    assert [line.split(",")[0] for line in lines] == [str(step) for step in range(1, 61)]


def test_openai_0_28_completes_whole_and_streamed(said_of_old: Said) -> None:
    assert said_of_old["text"] == " sold"
    assert said_of_old["text_streamed"] == " sold"


def test_openai_0_28_lists_and_deletes_both_kinds_of_models(said_of_old: Said) -> None:
    tuned = {said_of_old["job_finished"][1], said_of_old["tune_finished"][1]}
    assert tuned | {"tiny-random"} <= set(said_of_old["models"])
    assert said_of_old["models_deleted"] == [True, True]


def test_openai_0_28_knows_our_errors_as_its_own(said_of_old: Said) -> None:
    unknown = ["InvalidRequestError", 404, "fine_tune_not_found", "fine_tune_id"]
    assert said_of_old["errors"] == {
        "job": unknown,
        "tune": unknown,
        "stream": unknown,
        "file": ["InvalidRequestError", 404, None, "id"],
        "text": ["InvalidRequestError", 404, "model_not_found", None],
        "key": ["AuthenticationError", 401, "invalid_api_key", None],
    }
