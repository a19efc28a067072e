from __future__ import annotations

import pytest
import torch

from modeling.layout import NONE, Layout


def test_a_layout_says_where_each_sequence_lies() -> None:
    layout = Layout((0, 5, 7, 10, 11, 14), (NONE, 0, 0, 2, NONE))
    assert layout.paths == [[0, 1], [0, 2, 3], [4]]
    assert layout.sequence_lengths == [7, 9, 3]
    assert layout.position_ids().tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 0, 1, 2]
    x = torch.arange(14).view(1, 1, 14, 1)
    spread = layout.spread(x)[0, 0, :, 0]
    assert spread.tolist() == [*range(7), *range(5), *range(7, 14)]
    assert spread[layout.first_places].tolist() == list(range(14))


def test_a_layout_behind_a_prefix_has_it_before_every_sequence() -> None:
    layout = Layout.of_lengths((2, 3), 4).behind(6)
    assert layout.paths == [[0, 1, 2], [0, 1, 3]]
    assert layout.offsets == (0, 6, 10, 12, 15)
    assert Layout.of_lengths((2, 3)).behind(6) == Layout.of_lengths((2, 3), 6)


@pytest.mark.parametrize(
    ("offsets", "parents"),
    [
        ((0,), ()),
        ((1, 2), (NONE,)),
        ((0, 2, 2), (NONE, NONE)),
        ((0, 3, 1), (NONE, NONE)),
        ((0, 3), (NONE, NONE)),
        ((0, 3), (0,)),
        ((0, 3, 4), (1, NONE)),
        ((0, 3, 4, 5), (NONE, NONE, 0)),
        ((0, 3, 4), (-2, NONE)),
    ],
    ids=["none", "late", "empty", "back", "one more", "itself", "before", "apart", "unknown"],
)
def test_segments_that_do_not_stand_behind_their_parents_are_refused(
    offsets: tuple[int, ...], parents: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"offsets|a start and a parent|stand behind it"):
        Layout(offsets, parents)
