"""`make conformance`, held to what it once reached."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conformance import suite

PASSING = 1187
"""Of 1,190; the suite itself skips three."""


def passed_and_not(report: Path) -> tuple[int, list[str]]:
    """How many tests of a JUnit report passed, and why others failed or could not run."""
    passed, not_passed = 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((it for it in case if it.tag in ("failure", "error", "skipped")), None)
        if outcome is None:
            passed += 1
        elif outcome.tag != "skipped":
            name = f"{case.get('classname')}::{case.get('name')}"
            not_passed.append(f"{name}: {outcome.get('message')}")
    return passed, not_passed


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        suite.prepare()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"pip could not download the sources of openai {suite.VERSION}: {error}")
    path = tmp_path_factory.mktemp("conformance") / "report.xml"
    command = [sys.executable, "-m", "tests.conformance", f"--junit-xml={path}"]
    done = subprocess.run(command, cwd=suite.ROOT, capture_output=True, text=True, check=False)
    assert path.exists(), f"{done.stdout}\n{done.stderr}"
    return path


@pytest.mark.slow
def test_openais_own_suite_passes_against_this_server(report: Path) -> None:
    passed, not_passed = passed_and_not(report)
    assert not_passed == []
    assert passed >= PASSING
