from __future__ import annotations

import re
from pathlib import Path

import pytest

from .compose import ROOT

DOCKERFILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))

dockerfiles = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments) for each, continued lines joined, comments left out."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", file.read_text()))
    return [
        (name, rest)
        for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def copied(file: Path) -> set[str]:
    """Paths of the checkout that go into the image."""
    copies = [rest.split()[:-1] for name, rest in instructions(file) if name == "COPY"]
    return {path for paths in copies if not paths[0].startswith("--from") for path in paths}


@dockerfiles
def test_image_starts_from_a_pinned_one(file: Path) -> None:
    found = instructions(file)
    assert re.fullmatch(r"PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-\w+", found[0][1])
    assert {rest.split()[0] for name, rest in found if name == "FROM"} == {"${PYTHON_IMAGE}"}


@dockerfiles
def test_image_runs_as_nobody_special_and_says_how_it_is(file: Path) -> None:
    found = dict(instructions(file))
    assert found["USER"] == "10001:10001"
    assert "/healthz" in found["HEALTHCHECK"]


@dockerfiles
def test_copied_paths_exist_and_reach_the_build(file: Path) -> None:
    let_in = set(re.findall(r"(?m)^!(.*)$", (ROOT / ".dockerignore").read_text()))
    for path in copied(file):
        assert (ROOT / path).exists(), path
        assert path in let_in, path


def test_build_context_holds_nothing_that_no_image_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert let_in == set().union(*map(copied, DOCKERFILES))


def test_image_of_the_api_has_no_models() -> None:
    file = ROOT / "deploy/Dockerfile.api"
    assert not copied(file) & {"modeling", "training", "serving"}
    assert "optional-dependencies" not in file.read_text()
