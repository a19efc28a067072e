"""Rows of two answers to one prompt: what becomes of them, and which are refused."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.tokenized import Dataset
from dataset.validation import InvalidFile, validate
from dataset.windows import cut_alike
from tests.dataset.test_every_row import CHAT, GOOD_CHAT, MESSAGES, mostly
from tests.factories import Json, jsonl
from text.chat_template import ChatTemplate, TokenizedExample

END = 258
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def said(text: Any, **keys: Any) -> Json:
    return {"role": "assistant", "content": text, **keys}


def pair(
    better: str | list[Json] = "yes", worse: str | list[Json] = "no", *, asked: str = "Is it?"
) -> Json:
    outputs = [[said(o)] if isinstance(o, str) else o for o in (better, worse)]
    return {
        "input": {"messages": [{"role": "user", "content": asked}]},
        "preferred_output": outputs[0],
        "non_preferred_output": outputs[1],
    }


def load(
    folder: Path, template: ChatTemplate, *rows: Json, max_seq_len: int = 2048, method: str = "dpo"
) -> Dataset:
    validate(
        [jsonl(rows)],
        folder / "examples",
        template,
        max_seq_len=max_seq_len,
        role="validation",
        file_id="file-X",
        method=method,
    )
    return Dataset.open(folder / "examples")


def refusal(folder: Path, template: ChatTemplate, *rows: Json, method: str = "dpo") -> str:
    with pytest.raises(InvalidFile) as caught:
        load(folder, template, *rows, method=method)
    return caught.value.message


def test_a_row_is_two_sequences_with_one_prompt(tmp_path: Path, shows_all: ChatTemplate) -> None:
    loaded = load(tmp_path, shows_all, pair("yes", "not at all"), pair("a", "b"))
    assert [example.index for example in loaded.examples] == [0, 1]
    better, worse = loaded.examples[0].sequences
    prompt = shows_all.render(pair()["input"]["messages"], add_generation_prompt=True)
    for sequence, answer in ((better, b"yes"), (worse, b"not at all")):
        assert sequence.input_ids.tolist() == [*prompt, *answer, END]
        assert sequence.weights.tolist() == [*[0] * len(prompt), *[1] * (len(answer) + 1)]
    counted = loaded.statistics
    assert (counted.num_rows, counted.num_examples, counted.num_truncated) == (2, 2, 0)
    assert counted.num_supervised_tokens == len("yes") + len("not at all") + len("ab") + 4
    assert counted.num_tokens == sum(e.num_tokens for e in loaded.examples)


def test_former_names_context_and_calls_are_read(tmp_path: Path, shows_all: ChatTemplate) -> None:
    row = pair(
        [
            said(None, tool_calls=[CALL]),
            {"role": "tool", "tool_call_id": "c1", "content": "5"},
            said("It is 5."),
        ],
        "no",
    )
    row["input"]["messages"] = [
        {"role": "user", "content": "Hi"},
        said("Hello."),
        {"role": "user", "content": "What is a?"},
    ]
    row["input"]["tools"] = [TOOL]
    row["preferred_completion"] = row.pop("preferred_output")
    row["non_preferred_completion"] = row.pop("non_preferred_output")
    (example,) = load(tmp_path, shows_all, row).examples
    better, worse = (
        shows_all.tokenizer.decode([int(i) for i in s.input_ids[s.weights > 0]], skip_special=False)
        for s in example.sequences
    )
    # What the tool says is read and not learnt; the assistant's answer before is neither side's.
    assert "It is 5.<|im_end|>" in better
    assert '"name": "f"' in better
    assert "tool" not in better
    assert worse == "no<|im_end|>"


SHARED = st.integers(1, 12)


@given(SHARED, st.integers(1, 12), st.integers(1, 12), st.integers(3, 30), st.sampled_from([0, 99]))
def test_what_is_too_long_the_prompt_loses_alike(
    num_prompt: int, num_better: int, num_worse: int, max_seq_len: int, bos_id: int
) -> None:
    sequences = [
        TokenizedExample(
            [*range(num_prompt), *range(100 * n, 100 * n + num_answer)],
            [*[0.0] * num_prompt, *[1.0] * num_answer],
        )
        for n, num_answer in ((1, num_better), (2, num_worse))
    ]
    better, worse = cut_alike(sequences, max_seq_len, bos_id).sequences
    prompts = [s.input_ids[s.weights == 0].tolist() for s in (better, worse)]
    assert prompts[0] == prompts[1]
    prompt, longest = prompts[0], max(num_better, num_worse)
    assert max(better.num_tokens, worse.num_tokens) <= max_seq_len
    assert prompt[-1] == num_prompt - 1
    if longest + num_prompt <= max_seq_len:
        assert prompt == list(range(num_prompt))
    if bos_id == 0 and num_prompt > 1:
        assert prompt[0] == bos_id
        prompt = prompt[1:]
    assert prompt == list(range(num_prompt))[-len(prompt) :]
    for sequence, first, num_answer in ((better, 100, num_better), (worse, 200, num_worse)):
        answer = sequence.input_ids[sequence.weights > 0].tolist()
        assert answer == list(range(first, first + len(answer)))
        assert len(answer) in (num_answer, max_seq_len - len(prompts[0]))


def test_a_pair_that_is_equal_behind_the_cut_is_left_out(
    tmp_path: Path, shows_all: ChatTemplate
) -> None:
    long = "a" * 60
    loaded = load(tmp_path, shows_all, pair(long + "b", long + "c"), pair(), max_seq_len=50)
    counted = loaded.statistics
    assert (counted.num_examples, counted.num_left_out, counted.num_truncated) == (1, 1, 1)


def test_pairs_that_are_all_equal_behind_the_cut_are_told_what_helps(
    tmp_path: Path, shows_all: ChatTemplate
) -> None:
    """Their prompts are short."""
    rows = [pair("a" * 60 + "b", "a" * 60 + "c", asked=str(number)) for number in range(3)]
    with pytest.raises(InvalidFile) as caught:
        load(tmp_path, shows_all, *rows, max_seq_len=50)
    assert (
        "the answers of each pair are alike as far as 50 tokens reach. Answers that differ sooner help"
        in caught.value.message
    )


def test_an_empty_preferred_answer_teaches_silence_and_an_empty_other_does_not(
    tmp_path: Path, shows_all: ChatTemplate
) -> None:
    counted = load(tmp_path, shows_all, pair("a", ""), pair("", "a")).statistics
    assert (counted.num_silent, counted.first_silent) == (1, 2)


def changed(**changes: Any) -> Json:
    row = copy.deepcopy(pair())
    for key, value in changes.items():
        if value is None:
            del row[key]
        else:
            row[key] = value
    return row


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (pair("yes", "yes"), "Example 2: preferred_output and non_preferred_output are equal"),
        (pair([said([{"type": "text", "text": "yes"}])], "yes"), "Example 2: preferred_output and"),
        (pair("yes", [said("yes", name=None, refusal=None)]), "two different answers"),
        (changed(input=None), "Example 2 is missing key 'input'"),
        (changed(preferred_output=None), "Example 2 is missing key 'preferred_output'"),
        (changed(input=[USER]), "Example 2 input Input should be a valid dictionary: {"),
        (changed(input={}), "Example 2 input is missing key 'messages'"),
        (changed(input={"messages": []}), "Example 2 input messages List should have at least 1"),
        (changed(input={"messages": [{}]}), "Example 2, input message 1 Discriminator 'role'"),
        (changed(input={"messages": [USER], "n": 1}), 'Example 2, input contains an extra "n"'),
        (
            changed(input={"messages": [USER], "tools": [{}]}),
            "Example 2, input tools name Field required",
        ),
        (
            changed(preferred_output="yes"),
            "Example 2 preferred_output Input should be a valid list",
        ),
        (changed(non_preferred_output=[]), "Example 2 non_preferred_output List should have at"),
        (
            changed(preferred_output=[said(7)]),
            "Example 2, preferred_output message 1 content Input should be a valid string",
        ),
        (
            changed(non_preferred_output=[said("a"), USER, said("b")]),
            "Example 2, non_preferred_output message 2 is the user's; an output is what",
        ),
        (
            changed(
                preferred_output=[said("a"), {"role": "tool", "tool_call_id": "1", "content": "a"}]
            ),
            "Example 2, preferred_output message 2 is the tool's; an output must end with",
        ),
        (changed(preferred_output=[said("a", weight=0)]), "has the weight 0"),
        (changed(margin=1), 'Example 2 contains an extra "margin"'),
    ],
)
def test_a_row_that_is_no_preference_is_refused_with_line_field_and_mend(
    tmp_path: Path, shows_all: ChatTemplate, row: Json, words: str
) -> None:
    assert words in refusal(tmp_path, shows_all, pair(), row)


def test_answers_that_differ_in_what_the_base_does_not_show_are_refused(
    tmp_path: Path, shows_all: ChatTemplate
) -> None:
    source = shows_all.source.replace("{{ m.content }}", "{{ m.content | trim }}")
    trimming = ChatTemplate(source, shows_all.tokenizer)
    assert "differ in more than white space" in refusal(tmp_path, trimming, pair("yes", "yes "))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [USER, said("b")]}, "file-X is in the fine-tune-chat format, but the specified fine-tuning job is not using 'supervised' as the training method (provided method=dpo). "),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "These are TRL's preference rows (prompt, chosen, rejected). Write each as {\"input\""),
        ({"prompt": "a", "completion": "b", "label": True}, "rows of single answers with a label"),
        ({"text": "a"}, 'expected preferences. The method \'dpo\' learns from rows of the form {"input"'),
    ],
)  # fmt: skip
def test_files_of_other_forms_are_refused_as_a_whole(
    tmp_path: Path, shows_all: ChatTemplate, row: Json, words: str
) -> None:
    assert words in refusal(tmp_path, shows_all, row, row)


def test_preferences_are_for_dpo(tmp_path: Path, shows_all: ChatTemplate) -> None:
    message = refusal(tmp_path, shows_all, pair(), method="supervised")
    assert "in the fine-tune-preference format" in message
    (tmp_path / "b").mkdir()
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2
    assert "use the method 'dpo'" in refusal(tmp_path / "b", shows_all, *rows, method="supervised")


ANSWERS = st.sampled_from(
    [[said("yes")], [said("no")], [said("yes ")], [said("", tool_calls=[CALL])]]
)
ROWS = st.fixed_dictionaries(
    {
        "input": mostly(CHAT | GOOD_CHAT),
        "preferred_output": mostly(ANSWERS | MESSAGES),
        "non_preferred_output": mostly(ANSWERS | MESSAGES),
    }
)


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(row=ROWS)
def test_any_row_is_refused_in_words_or_becomes_a_pair(
    tmp_path: Path, shows_all: ChatTemplate, row: Json
) -> None:
    found = checked(Path(tempfile.mkdtemp(dir=tmp_path)), shows_all, row)
    if isinstance(found, str):
        assert "Example 2" in found
        return
    for example in found.examples:
        better, worse = example.sequences
        for sequence in (better, worse):
            assert sequence.num_supervised_tokens > 0
            assert sequence.num_tokens <= 60
        assert better.input_ids.tolist() != worse.input_ids.tolist()


def checked(folder: Path, template: ChatTemplate, row: Json) -> Dataset | str:
    """The pairs, or the refusal."""
    try:
        return load(folder, template, pair(), row, max_seq_len=60)
    except InvalidFile as error:
        return error.message
