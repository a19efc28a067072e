"""How a command fails: one line on stderr, exit code 1, no traceback."""

from __future__ import annotations

from collections.abc import Mapping

import openai
import typer
from typer.core import TyperGroup


class CommandError(Exception):
    """A command cannot be done; the message is all that the user needs."""


class OneLineErrors(TyperGroup):
    """Every command of the application runs through here."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of our output has gone; typer ends quietly
        except (CommandError, openai.OpenAIError, OSError) as error:
            typer.echo(f"Error: {line(error)}", err=True)
            raise typer.Exit(1) from None


def line(error: Exception) -> str:
    """The server's own words where there are any."""
    if isinstance(error, openai.APITimeoutError):
        return f"{error.request.url} did not answer in time"
    if isinstance(error, openai.APIConnectionError):
        # "Connection error." says less than its cause, which is missing where we raised it ourselves.
        reason = error.__cause__ if error.message == "Connection error." else error.message
        return f"cannot talk to {error.request.url}: {reason}"
    if isinstance(error, openai.APIStatusError):
        message = error.body.get("message") if isinstance(error.body, Mapping) else None
        text = message or f"the server answered {error.response.status_code} without a reason"
    else:
        text = str(error)
    return " ".join(str(text).split())
