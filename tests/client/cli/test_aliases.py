from __future__ import annotations

import json

from luthier import aliases
from tests.client.fake_api import MODEL, FakeApi

from .conftest import Run

OLD = "ft:gpt-4o-mini:org/team::B7R9VjQd"


def test_bind_list_and_delete(luthier: Run, api: FakeApi) -> None:
    result = luthier("aliases", "bind", OLD, MODEL, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == api.aliases[OLD]
    assert f"{OLD}  {MODEL}" in luthier("aliases", "list").stdout
    assert luthier("aliases", "delete", OLD).stdout == f"Deleted {OLD}\n"
    assert api.aliases == {}
    assert luthier("aliases", "delete", OLD).stderr.startswith("Error: ")


def test_list_goes_through_all_pages(luthier: Run, api: FakeApi) -> None:
    for number in range(aliases.PAGE_ALIASES + 1):
        alias = f"alias-{number:03}"
        api.aliases[alias] = {
            "object": "model.alias",
            "alias": alias,
            "model": MODEL,
            "created_at": 1_700_000_000,
        }
    listed = json.loads(luthier("aliases", "list", "--json").stdout)
    assert listed["data"] == list(api.aliases.values())
