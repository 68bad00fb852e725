"""`bloomery chat`: a dialogue that keeps what was said, on a terminal and through a pipe."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from miniature import ROOT, small_run

from bloomery import chat, cli
from bloomery.chat import talk
from bloomery.core.errors import InputError
from bloomery.core.records import Message


@pytest.fixture
def in_room(monkeypatch):
    monkeypatch.chdir(small_run().parents[1])
    return Path("runs/life")


class Parrot:
    """Answers with the number of messages it was given, and the last of them."""

    def reply(self, messages, *, temperature, max_tokens):
        if messages[-1].content == "long":
            raise InputError("a prompt cannot be continued")
        assert all(isinstance(message, Message) for message in messages)
        yield f"{len(messages)} "
        if messages[-1].content == "slow":
            raise KeyboardInterrupt
        yield messages[-1].content


def said(capsys, *lines, **options):
    talk(Parrot(), iter(f"{line}\n" for line in lines), temperature=0, max_tokens=9, **options)
    return capsys.readouterr()


def test_the_dialogue_is_kept_until_told_to_forget(capsys):
    out, err = said(capsys, "hello", "", "again", "long", "/reset", "fresh", system="be kind")
    assert out == "2 hello\n4 again\n2 fresh\n" and "cannot be continued" in err and "forgotten" in err


def test_commands(capsys):
    out, err = said(capsys, "/help", "/hlep", "/quit", "never asked")
    assert out == "" and err.count("/reset forgets") == 2 and "there is no command /hlep" in err


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(capsys):
    out, _ = said(capsys, "slow", "next", interactive=True)
    assert out == "1  ...\n3 next\n"
    with pytest.raises(KeyboardInterrupt):
        said(capsys, "slow", "next")


def test_on_a_terminal(monkeypatch, capsys):
    answers = iter(["hello", KeyboardInterrupt, "again", EOFError])

    def typed(prompt):
        answer = next(answers)
        if isinstance(answer, type):
            raise answer
        return answer

    monkeypatch.setattr(sys, "stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", typed)
    assert list(chat.typed_lines()) == ["hello", "again"] and "Ctrl-D or /quit leaves" in capsys.readouterr().err


def test_questions_through_a_pipe(in_room):
    """Each line is answered as it would be in a dialogue of its own making, and the end of the input is the end."""
    folder = next(in_room.glob("dpo-*"))
    done = subprocess.run([sys.executable, "-m", "bloomery.cli", "chat", str(folder), "--max-tokens", "4"],
                          input="What is 1 + 1?\n\n/reset\nWhat is 1 + 1?", capture_output=True, text=True, timeout=60,
                          env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, "forgotten\n")
    answer = "".join(chat.open_chat(folder).reply((Message("user", "What is 1 + 1?"),), max_tokens=4))
    assert done.stdout == f"{answer}\n{answer}\n"


def test_one_question(in_room, capsys):
    folder = next(in_room.glob("sft-*"))
    assert cli.main(["chat", str(folder), "--ask", "What?", "--max-tokens", "3"]) == 0
    answer = "".join(chat.open_chat(folder).reply((Message("user", "What?"),), max_tokens=3))
    assert capsys.readouterr().out == f"{answer}\n"


def test_a_question_longer_than_the_context(in_room, capsys):
    assert cli.main(["chat", str(next(in_room.glob("sft-*"))), "--ask", "What? " * 200]) == 0
    assert "a prompt cannot be continued" in capsys.readouterr().err
