"""Conversations of three tasks that a tiny model can learn."""

from bloomery.core.records import Conversation, Message

COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red", "sun": "yellow"}


def row(task: str, name: str, asked: str, said: str, thinking: str = "") -> Conversation:
    return Conversation((Message("user", asked), Message("assistant", said, thinking=thinking)), task, name)


def dialogues() -> list[Conversation]:
    """Tasks of different sizes."""
    return [*(row("colour", f"c{thing}", f"Which colour has the {thing}?", f"It is {colour}.")
              for thing, colour in COLOURS.items()),
            *(row("sum", f"s{a}", f"What is {a} + 1?", f"{a + 1}") for a in range(12)),
            *(row("echo", f"e{a}", f"Say {a}, and no more!", f"{a}") for a in range(4))]
