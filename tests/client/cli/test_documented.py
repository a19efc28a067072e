"""The commands that the READMEs show can be typed as they stand there."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import typer

from luthier.cli import app

HOUSE = Path(__file__).parents[3]
READMES = ["README.md", "client/README.md", "deploy/README.md"]
SHOWN = re.compile(r"`(luthier [^`]+)`|^(?:\w+=\S+ )*(luthier [^#\n]+)", re.MULTILINE)
COMMANDS = [
    command.strip()
    for readme in READMES
    for command in map("".join, SHOWN.findall((HOUSE / readme).read_text("utf-8")))
    if " | " not in command  # a list of the commands of a noun
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("shown", COMMANDS)
def test_command_can_be_typed_as_it_stands(shown: str) -> None:
    program, *arguments = shlex.split(shown.replace("[PROMPT]", "PROMPT"))
    command, context = typer.main.get_command(app), None
    while hasattr(command, "resolve_command"):
        context = command.make_context(program, arguments, parent=context)
        left = [*context._protected_args, *context.args]
        name, command, arguments = command.resolve_command(context, left)
        program = name or ""
    if arguments:  # else the text only mentions the command
        with suppress(typer.Exit):  # after --help
            command.make_context(
                program, arguments, parent=context
            )  # refuses what it does not know
