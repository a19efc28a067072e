from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading import template
from grading.template import InvalidVariable, TooLong

VARIABLES: dict[str, Any] = {
    "item": {
        "answer": "42",
        "n": 3,
        "flag": True,
        "none": None,
        "deep": {"list": [{"x": "y"}, "z"], "ü-1": "u"},
        "braces": "{{ item.answer }}",
    },
    "sample": {"output_text": "hi", "choices": [{"message": {"content": "hi"}}]},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{ item.answer }}", "42"),
        ("{{item.answer}}{{ sample.output_text }}", "42hi"),
        ("{{ item.n }} {{ item.flag }} {{ item.none }}", "3 true null"),
        ("{{ item.deep.list.0.x }}{{ item.deep.list[1] }}", "yz"),
        ("{{ item . deep . ü-1 }}", "u"),
        ("{{ item.deep.list }}", '[{"x": "y"}, "z"]'),
        ("{{ sample.choices[0].message.content }}", "hi"),
        ("{{ item.braces }}", "{{ item.answer }}"),
        ("{ item.answer } {{ item.answer", "{ item.answer } {{ item.answer"),
        ('{"a": {"b": "{{ item.answer }}"}}', '{"a": {"b": "42"}}'),
    ],
)
def test_variables_are_put_in(text: str, expected: str) -> None:
    assert template.render(text, VARIABLES) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("item.missing", "item.answer.x", "item.deep.list[2]", "item.deep.list.-1", "other.x", ""),
        *("item.answer | upper", "1 + 1", "item.__class__", "item.deep.list.__len__", "item..n"),
        *("config.items()", "item['answer']", "item.deep.list[99999999999]", "item.deep.list.²"),
    ],
)
def test_a_variable_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(InvalidVariable):
        template.render("{{ " + name + " }}", VARIABLES)


def test_a_text_that_grows_too_long_is_not_built() -> None:
    variables = {"item": {"big": "x" * 100_000}}
    with pytest.raises(TooLong):
        template.render("{{ item.big }}" * 100_000, variables)


@pytest.mark.parametrize("text", ["{{ item }}", "{{ other.x }}", "{{ 1 }}", "{{ }}", "{{ a b }}"])
def test_what_can_be_no_variable_is_known_without_an_item(text: str) -> None:
    with pytest.raises(InvalidVariable):
        template.check(text)


def test_what_may_be_there_passes_without_an_item() -> None:
    template.check("{{ item.x.y[0] }} {{ sample.output_json.a }} { { }")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(alphabet="{} .[]item0samplé", max_size=40), st.dictionaries(st.text(), json_values))
def test_any_template_gives_a_text_or_tells_the_variable(text: str, item: dict[str, Any]) -> None:
    try:
        template.render(text, {"item": item, "sample": {}})
    except InvalidVariable:
        assert "{{" in text


@given(st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_-]{0,10}\Z"), st.text(), st.text(alphabet="ab{ "))
def test_a_string_comes_out_as_it_went_in(key: str, value: str, before: str) -> None:
    text = before.replace("{{", "") + " {{ item." + key + " }}"
    if text.count("{{") == 1:
        assert template.render(text, {"item": {key: value}}).endswith(f" {value}")
