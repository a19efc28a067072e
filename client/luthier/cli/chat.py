"""`luthier chat`: one answer, or a conversation."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import openai
import typer
from openai.types.chat import ChatCompletionMessageParam

from luthier.client import Luthier

from .connection import connected
from .errors import line
from .output import printable


@connected
def chat(
    client: Luthier,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    prompt: Annotated[
        str | None, typer.Argument(help="Ask this and end; without it, talk.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option(help="Who the model is to be.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Length of an answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes answers repeatable.")] = None,
) -> None:
    """Chat with a model. The prompt may also come from a pipe."""
    options = {"temperature": temperature, "max_completion_tokens": max_tokens, "seed": seed}
    options = {name: value for name, value in options.items() if value is not None}
    messages: list[ChatCompletionMessageParam] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    if prompt is None and sys.stdin.isatty():
        _converse(client, model, messages, options)
        return
    messages.append({"role": "user", "content": sys.stdin.read() if prompt is None else prompt})
    _answer(client, model, messages, options)


def _converse(
    client: Luthier,
    model: str,
    messages: list[ChatCompletionMessageParam],
    options: dict[str, Any],
) -> None:
    """Chat until the end of input; Ctrl-C cuts an answer short. A failed turn is as if never asked."""
    typer.echo(f"Talking with {model}. Ctrl-D ends.")
    while True:
        try:
            text = input("> ")
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if not text.strip():
            continue
        turn: list[ChatCompletionMessageParam] = [*messages, {"role": "user", "content": text}]
        try:
            reply = _answer(client, model, turn, options)
        except openai.OpenAIError as error:
            typer.echo(f"Error: {line(error)}", err=True)
            continue
        messages[:] = [*turn, {"role": "assistant", "content": reply}]


def _answer(
    client: Luthier,
    model: str,
    messages: list[ChatCompletionMessageParam],
    options: dict[str, Any],
) -> str:
    """Print the answer as it comes, and give it back."""
    show = printable if sys.stdout.isatty() else str
    pieces: list[str] = []
    try:
        with client.chat.completions.create(
            model=model, messages=messages, stream=True, **options
        ) as chunks:
            for chunk in chunks:
                piece = chunk.choices[0].delta.content if chunk.choices else None
                if piece:
                    pieces.append(piece)
                    typer.echo(show(piece), nl=False)
    except KeyboardInterrupt:
        if not pieces:
            raise
    typer.echo()
    return "".join(pieces)
