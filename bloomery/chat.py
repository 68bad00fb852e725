"""Talking to a model on a terminal, or line by line through a pipe. `/new` forgets what was said."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from bloomery.core.errors import InputError
from bloomery.core.metrics import say
from bloomery.core.records import Message
from bloomery.generate.decode import Chat

PROMPT = "\n> "


class Speaker(Protocol):
    """What answers: `generate.decode.Chat`, or anything with its one method."""

    def reply(self, messages: tuple[Message, ...], *, temperature: float, max_tokens: int) -> Iterator[str]: ...


def open_chat(folder: Path) -> Chat:
    return Chat(folder)


def talk(speaker: Speaker, lines: Iterator[str], *, temperature: float, max_tokens: int, system: str = "") -> None:
    """Answer every line, each answer written to stdout while it comes; a turn that does not fit is forgotten."""
    opening = (Message("system", system),) if system else ()
    turns = opening
    for line in lines:
        question = line.strip()
        if question == "/new":
            turns = opening
            say("forgotten")
        elif question:
            asked = (*turns, Message("user", question))
            pieces: list[str] = []
            try:
                for piece in speaker.reply(asked, temperature=temperature, max_tokens=max_tokens):
                    pieces.append(piece)
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            except InputError as error:
                say(f"{error}\n/new starts again with an empty context")
                continue
            sys.stdout.write("\n")
            answer = "".join(pieces)
            turns = (*asked, Message("assistant", answer)) if answer.strip() else turns


def typed_lines() -> Iterator[str]:
    """Lines a person types, with a prompt on a terminal, until end of file."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    say("type a question; /new starts again, Ctrl-D ends")
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            return
