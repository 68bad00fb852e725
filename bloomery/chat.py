"""Talking to a model on a terminal, or line by line through a pipe.

On a terminal Ctrl-C stops an answer and keeps what was said of it, Ctrl-D leaves.  Through a pipe every line is a
question of one dialogue, its answer one line of output or more, and Ctrl-C ends the command as it does any other.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from bloomery.core.errors import BloomeryError, InputError
from bloomery.core.metrics import say, shorten
from bloomery.core.records import Conversation, Message
from bloomery.data.formats import conversation_row
from bloomery.decoding import ChatOptions, changed
from bloomery.speaker import Speaker

with suppress(ImportError):         # line editing and history for `input`; not every interpreter is built with it
    import readline  # noqa: F401

PROMPT = "\n> "


class Speaks(Protocol):
    """What answers: `speaker.Speaker`, or anything with its one method."""

    def reply(self, messages: tuple[Message, ...], options: ChatOptions) -> Iterator[str]: ...


def open_chat(folder: Path, *, precision: str = "fp32", device: str = "auto") -> Speaker:
    """The model of a folder; on a terminal also what it is and which commands there are."""
    found = Speaker(folder, precision=precision, device=device)
    if found.renderer is None:
        raise InputError("this model cannot be talked to", where=str(folder), why="the folder has no tokenizer.json")
    if not found.answers:
        say("this model was taught to continue text, not to answer: `bloomery generate --plain` is for it")
    if sys.stdin.isatty():
        config = found.model.config
        say(f"{folder}: {shorten(config.parameters())} parameters, {config.context} tokens of context\n"
            "/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")
    return found


class Dialogue:
    """What was said so far, and how the next answer is drawn. A line is a question, or a command when it begins with /.

    Commands are the methods of `COMMANDS`; each takes the rest of its line.
    """

    def __init__(self, speaker: Speaks, options: ChatOptions, *, interactive: bool = False):
        self.speaker, self.options, self.interactive = speaker, options, interactive
        self.turns = opening(options.system)

    def hear(self, line: str) -> bool:
        """Answer one line; whether the dialogue goes on."""
        command, _, rest = line.strip().partition(" ")
        if command in ("/quit", "/exit"):
            return False
        if command.startswith("/"):
            act = COMMANDS.get(command)
            try:
                act[0](self, rest.strip()) if act else say(f"there is no command {command}\n{HELP}")
            except BloomeryError as error:
                say(str(error))
        elif command:
            self.ask(line.strip())
        return True

    def ask(self, question: str) -> None:
        """Answer a question, the answer written to stdout while it comes; a turn that does not fit is forgotten."""
        asked = (*self.turns, Message("user", question))
        try:
            answer = spoken(self.speaker.reply(asked, self.options), self.interactive)
        except InputError as error:
            say(f"{error}\n/reset starts again with an empty context")
        else:
            self.turns = (*asked, Message("assistant", answer)) if answer.strip() else self.turns

    def reset(self, _: str) -> None:
        self.turns = opening(self.options.system)
        say("forgotten")

    def system(self, text: str) -> None:
        self.options = self.options.model_copy(update={"system": text})
        self.turns = (*opening(text), *(turn for turn in self.turns if turn.role != "system"))
        say(f"the system message is now: {text}" if text else "there is no system message now")

    def retry(self, _: str) -> None:
        answered(self.turns)
        if self.options.temperature == 0:
            say("at temperature 0 the answer is the same again; try /set temperature 0.8")
        kept, self.turns, asked = self.turns, self.turns[:-2], self.turns[-2].content
        self.options = self.options.model_copy(update={"seed": self.options.seed + 1})
        self.ask(asked)
        self.turns = self.turns if len(self.turns) == len(kept) else kept           # no new answer: the old one stays

    def seed(self, value: str) -> None:
        self.set(f"seed {value}")

    def set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not text:
            say("\n".join(f"{name} {value}" for name, value in self.options if name not in SETTLED))
        elif name in SETTLED:
            raise InputError(f"{name} cannot be set here", hint=SETTLED[name])
        else:
            self.options = changed(self.options, name, value.strip())
            say(f"{name} is now {getattr(self.options, name.replace('-', '_'))}")

    def save(self, name: str) -> None:
        """Add the dialogue to a file as one row that training reads."""
        path = Path(name)
        if not name.endswith(".jsonl") or not path.parent.is_dir():
            raise InputError("cannot save there", where=name, hint="/save FILE.jsonl, in a folder that exists")
        answered(self.turns)
        row = conversation_row(Conversation(self.turns))["messages"]
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": row}, ensure_ascii=False) + "\n")
        say(f"{len(row)} messages added to {path}")

    def help(self, _: str) -> None:
        say(HELP)


def opening(system: str) -> tuple[Message, ...]:
    return (Message("system", system),) if system else ()


def answered(turns: tuple[Message, ...]) -> None:
    if not turns or turns[-1].role != "assistant":
        raise InputError("nothing was answered yet")


def talk(speaker: Speaks, lines: Iterator[str], options: ChatOptions, *, interactive: bool = False) -> None:
    """Answer every line until one says to leave."""
    dialogue = Dialogue(speaker, options, interactive=interactive)
    for line in lines:
        if not dialogue.hear(line):
            return


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


SETTLED = {"system": "/system TEXT", "precision": "start again with --precision",
           "device": "start again with --device"}
COMMANDS: dict[str, tuple[Callable[[Dialogue, str], None], str]] = {
    "/system": (Dialogue.system, "TEXT: what the model is told before everything; without a text, nothing"),
    "/retry": (Dialogue.retry, "answers the last question again, with the next seed"),
    "/seed": (Dialogue.seed, "NUMBER: what the next answers are drawn from"),
    "/set": (Dialogue.set, "NAME VALUE: how answers are drawn, as in /set temperature 0.8; alone, shows it"),
    "/save": (Dialogue.save, "FILE.jsonl: adds this dialogue to a file, a row that training reads"),
    "/reset": (Dialogue.reset, "forgets what was said"),
    "/help": (Dialogue.help, "shows this; /quit or Ctrl-D leaves, Ctrl-C stops an answer"),
}
HELP = "\n".join(f"{name:<8} {what}" for name, (_, what) in COMMANDS.items())
