"""Talking to a model on a terminal, or line by line through a pipe.

On a terminal Ctrl-C stops an answer and keeps what was said of it, Ctrl-D leaves.  Through a pipe every line is a
question of one dialogue, its answer one line of output or more, and Ctrl-C ends the command as it does any other.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from bloomery.core.errors import InputError
from bloomery.core.metrics import say, shorten
from bloomery.core.records import Message
from bloomery.generate.decode import Chat

with suppress(ImportError):         # line editing and history for `input`; not every interpreter is built with it
    import readline  # noqa: F401

PROMPT = "\n> "
HELP = "/reset forgets what was said, /quit or Ctrl-D leaves, Ctrl-C stops an answer, /help shows this"


class Speaker(Protocol):
    """What answers: `generate.decode.Chat`, or anything with its one method."""

    def reply(self, messages: tuple[Message, ...], *, temperature: float, max_tokens: int) -> Iterator[str]: ...


def open_chat(folder: Path) -> Chat:
    """The model of a folder; on a terminal also what it is and which commands there are."""
    found = Chat(folder)
    if sys.stdin.isatty():
        config = found.model.config
        say(f"{folder}: {shorten(config.parameters())} parameters, {config.context} tokens of context\n{HELP}")
    return found


def talk(speaker: Speaker, lines: Iterator[str], *, temperature: float, max_tokens: int, system: str = "",
         interactive: bool = False) -> None:
    """Answer every line, each answer written to stdout while it comes; a turn that does not fit is forgotten."""
    opening = (Message("system", system),) if system else ()
    turns = opening
    for line in lines:
        question = line.strip()
        if question in ("/quit", "/exit"):
            return
        if question == "/reset":
            turns = opening
            say("forgotten")
        elif question.startswith("/"):
            say(HELP if question == "/help" else f"there is no command {question}; {HELP}")
        elif question:
            asked = (*turns, Message("user", question))
            try:
                answer = spoken(speaker.reply(asked, temperature=temperature, max_tokens=max_tokens), interactive)
            except InputError as error:
                say(f"{error}\n/reset starts again with an empty context")
            else:
                turns = (*asked, Message("assistant", answer)) if answer.strip() else turns


def spoken(pieces: Iterator[str], interactive: bool) -> str:
    """Write an answer as it comes; in a dialogue with a person Ctrl-C ends the answer, not the program."""
    said: list[str] = []
    try:
        for piece in pieces:
            said.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not interactive:
            raise
        sys.stdout.write(" ...")
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(said)


def typed_lines() -> Iterator[str]:
    """Lines a person types, with a prompt on a terminal, until end of file."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            say("Ctrl-D or /quit leaves")
