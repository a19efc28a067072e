"""What a reply tells of usage, after each delta: the sums over its choices, without going through them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.engine.sequence import Delta, Usage
from serving.replies import Reply


class CountingList(list[Any]):
    """Counts the entries that are read."""

    num_read = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.num_read += len(found) if isinstance(place, slice) else 1
        return found

    def __iter__(self) -> Any:
        self.num_read += len(self)
        return super().__iter__()


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    num_choices=st.integers(1, 4),
    data=st.data(),
)
def test_usage_is_the_sum_over_all_choices_at_any_time(
    lengths: list[int], num_choices: int, data: st.DataObject
) -> None:
    reply = Reply(id_prefix="x", model="m", prompt_lengths=lengths, num_choices=num_choices)
    num_all = len(lengths) * num_choices
    usages = [Usage(n, 0, 0) for n in lengths for _ in range(num_choices)]
    for index in data.draw(st.permutations(range(num_all))):
        cached, completed = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
        usages[index] = Usage(usages[index].prompt_tokens, completed, cached)
        reply.count(index, Delta(finish_reason="stop", usage=usages[index]))
        told = reply.usage_body()
        by_prompt = [usages[i : i + num_choices] for i in range(0, num_all, num_choices)]
        assert told["prompt_tokens"] == sum(lengths)
        assert told["completion_tokens"] == sum(u.completion_tokens for u in usages)
        assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]
        least = sum(min(u.cached_tokens for u in of_prompt) for of_prompt in by_prompt)
        assert told["prompt_tokens_details"]["cached_tokens"] == least


def test_telling_usage_with_each_token_costs_the_same_for_one_choice_and_for_a_thousand() -> None:
    reply = Reply(id_prefix="x", model="m", prompt_lengths=[5] * 8, num_choices=128)
    reply._usages = CountingList(reply._usages)
    for index in range(1024):
        reply.count(index, Delta(text="a"))
        reply.usage_body()
        reply.count(index, Delta(finish_reason="stop", usage=Usage(5, 1, 0)))
        reply.usage_body()
    assert reply._usages.num_read <= 3 * 1024
