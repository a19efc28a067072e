"""The data set: what its README promises."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations

import pytest

from examples import evaluate, tickets
from examples.tickets import FIELDS, Example

SPLITS = ("train", "validation", "holdout")


def every_example() -> list[Example]:
    return [example for split in SPLITS for example in tickets.load(split)]


def words(mail: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", mail.lower())


def ngrams(mail: str, size: int) -> set[tuple[str, ...]]:
    found = words(mail)
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(("split", "least"), [("train", 240), ("validation", 24), ("holdout", 60)])
def test_split_is_large_enough(split: str, least: int) -> None:
    assert len(tickets.load(split)) >= least


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_chats_with_the_short_instruction(split: str) -> None:
    for line in (tickets.DATA_DIR / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert list(row) == ["messages"]
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == evaluate.SHORT_INSTRUCTION
        assert all(list(m) == ["role", "content"] for m in row["messages"])


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_valid_tickets_written_the_one_way(split: str) -> None:
    for line in (tickets.DATA_DIR / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)["messages"][-1]["content"]
        ticket = tickets.read(answer)
        assert ticket is not None
        assert tickets.is_valid(ticket), answer
        assert answer == tickets.write(ticket)


def test_mails_are_short_clean_prose() -> None:
    for mail in (example.mail for example in every_example()):
        assert 5 <= len(mail.split()) <= 60, mail
        assert mail == mail.strip()
        assert "\n" not in mail
        assert not re.search(r"@|https?:|www\.|\d{6,}", mail), f"address or long number: {mail}"


@pytest.mark.parametrize("name", FIELDS)
def test_every_value_is_common_enough_to_learn_and_to_measure(name: str) -> None:
    for split in ("train", "holdout"):
        examples = tickets.load(split)
        counts = Counter(example.ticket[name] for example in examples)
        assert set(counts) == set(FIELDS[name])
        assert min(counts.values()) >= 0.07 * len(examples), counts


def test_many_different_tickets_occur() -> None:
    assert len({tickets.write(example.ticket) for example in every_example()}) >= 60


def test_no_mail_occurs_twice_or_nearly() -> None:
    mails = [
        (example.mail, ngrams(example.mail, 1), ngrams(example.mail, 3))
        for example in every_example()
    ]
    for (a, words_a, threes_a), (b, words_b, threes_b) in combinations(mails, 2):
        assert jaccard(words_a, words_b) < 0.5, (a, b)
        assert jaccard(threes_a, threes_b) < 0.2, (a, b)


def test_holdout_shares_no_long_phrase_with_training() -> None:
    seen = set().union(*(ngrams(example.mail, 8) for example in tickets.load("train")))
    for example in tickets.load("holdout"):
        assert not ngrams(example.mail, 8) & seen, example.mail


@pytest.mark.parametrize("name", ["category", "urgent", "refund"])
def test_no_single_word_decides_a_field(name: str) -> None:
    """No word that is in many mails goes with one value always, and covers most of that value's mails."""
    examples = every_example()
    totals = Counter(example.ticket[name] for example in examples)
    with_word: Counter[str] = Counter()
    with_word_and_value: Counter[tuple[str, str | bool]] = Counter()
    for example in examples:
        for word in set(words(example.mail)):
            with_word[word] += 1
            with_word_and_value[word, example.ticket[name]] += 1
    for (word, value), count in with_word_and_value.items():
        precision, recall = count / with_word[word], count / totals[value]
        assert not (precision > 0.95 and recall > 0.5), (word, value, precision, recall)


def test_readme_states_the_true_numbers() -> None:
    readme = (tickets.DATA_DIR / "README.md").read_text(encoding="utf-8")
    for split in SPLITS:
        assert f"| `{split}.jsonl` | {len(tickets.load(split))} |" in readme
    assert readme.split("\n\n")[1].startswith(f"{len(every_example())} short mails")
    for name, values in FIELDS.items():
        for value in values:
            counts = [
                sum(example.ticket[name] == value for example in tickets.load(split))
                for split in SPLITS
            ]
            row = f"| `{str(value).lower()}` | {' | '.join(map(str, counts))} |"
            assert row in readme
    num_tickets = len({tickets.write(example.ticket) for example in every_example()})
    assert f"{num_tickets} of the 240 possible tickets occur." in readme
