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
from bloomery.core.files import Quarantine
from bloomery.core.records import Message
from bloomery.data.formats import conversations
from bloomery.decoding import ChatOptions, Decoding


@pytest.fixture
def in_room(monkeypatch):
    monkeypatch.chdir(small_run().parents[1])
    return Path("runs/life")


class Parrot:
    """Answers with the number of messages it was given, and the last of them."""

    def reply(self, messages, options):
        if messages[-1].content == "long":
            raise InputError("a prompt cannot be continued")
        assert all(isinstance(message, Message) for message in messages)
        yield f"{len(messages)} "
        if messages[-1].content == "slow":
            raise KeyboardInterrupt
        yield f"{messages[-1].content} {messages[0].content}" if messages[0].role == "system" else messages[-1].content
        if options.seed:
            yield f" {options.seed}"


def said(capsys, *lines, interactive=False, **options):
    talk(Parrot(), iter(f"{line}\n" for line in lines), ChatOptions(**options), interactive=interactive)
    return capsys.readouterr()


def test_the_dialogue_is_kept_until_told_to_forget(capsys):
    out, err = said(capsys, "hello", "", "again", "long", "/reset", "fresh", system="be kind")
    assert out == "2 hello be kind\n4 again be kind\n2 fresh be kind\n"
    assert "cannot be continued" in err and "forgotten" in err


def test_help_and_leaving(capsys):
    out, err = said(capsys, "/help", "/hlep", "/quit", "never asked")
    assert out == "" and err.count("forgets what was said") == 2 and "there is no command /hlep" in err
    assert all(f"\n{name} " in f"\n{err}" for name in chat.COMMANDS)


def test_a_system_message_on_the_way(capsys):
    out, err = said(capsys, "one", "/system be brief", "two", "/system", "three")
    assert out == "1 one\n4 two be brief\n5 three\n"
    assert "the system message is now: be brief" in err and "there is no system message now" in err


def test_another_answer_to_the_same_question(capsys):
    """In place of the last one, from the next seed; one that does not come leaves the old one where it was."""
    out, err = said(capsys, "/retry", "one", "two", "/retry", "/retry", "three", "/set seed 40", "/retry",
                    temperature=1)
    assert out == "1 one\n3 two\n3 two 1\n3 two 2\n5 three 2\n5 three 41\n"
    assert "nothing was answered yet" in err and "temperature 0" not in err
    out, err = said(capsys, "slow", "/retry", "next", interactive=True)
    assert out == "1  ...\n1  ...\n3 next 1\n" and "at temperature 0 the answer is the same" in err


def test_options_on_the_way(capsys):
    out, err = said(capsys, "/seed 5", "one", "/set top-p 0.5", "/set stop a,b", "/set", "/set temperature -1",
                    "/set heat 1", "/set system x", "/seed many", "two")
    assert out == "1 one 5\n3 two 5\n"
    for line in ("seed is now 5", "top-p is now 0.5", "top_p 0.5", "stop ['a', 'b']", "heat: unknown key",
                 "temperature: must be at least 0.0, is -1", "system cannot be set here",
                 "seed: must be a whole number"):
        assert line in err


def test_every_option_and_command_is_explained():
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert [name for name in Decoding.model_fields if f"| `{name}` |" not in page] == []
    assert [name for name in chat.COMMANDS if f"`{name}" not in page] == []


def test_dialogues_become_training_data(capsys, tmp_path):
    path = tmp_path / "mine.jsonl"
    _, err = said(capsys, f"/save {path}", "one", f"/save {path}", "two", f"/save {path}",
                  f"/save {tmp_path}/no/x.jsonl", "/save mine.txt", system="be kind")
    saved = conversations(str(path), Quarantine())
    assert [turn.content for turn in saved[0].messages] == ["be kind", "one", "2 one be kind"]
    assert len(saved) == 2 and saved[1].messages[:3] == saved[0].messages and len(saved[1].messages) == 5
    assert "nothing was answered yet" in err and "3 messages added" in err and err.count("cannot save there") == 2


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
    answer = "".join(chat.open_chat(folder).reply((Message("user", "What is 1 + 1?"),), ChatOptions(max_tokens=4)))
    assert done.stdout == f"{answer}\n{answer}\n"


def test_one_question(in_room, capsys):
    folder = next(in_room.glob("sft-*"))
    assert cli.main(["chat", str(folder), "--ask", "What?", "--max-tokens", "3"]) == 0
    answer = "".join(chat.open_chat(folder).reply((Message("user", "What?"),), ChatOptions(max_tokens=3)))
    assert capsys.readouterr().out == f"{answer}\n"


def test_a_question_longer_than_the_context(in_room, capsys):
    assert cli.main(["chat", str(next(in_room.glob("sft-*"))), "--ask", "What? " * 200]) == 0
    assert "a prompt cannot be continued" in capsys.readouterr().err


def test_what_was_read_is_not_read_again(in_room):
    """The next turn begins with the last one's prompt: its whole chunks are in the cache, and change nothing."""
    speaker = chat.open_chat(next(in_room.glob("dpo-*")))
    asked = Message("user", "What is one plus one, and why is it so? " * 2)
    drawn = ChatOptions(max_tokens=5, temperature=1, seed=3)
    answer = "".join(speaker.reply((asked,), drawn))
    turns = (asked, Message("assistant", answer or "x"), Message("user", "And?"))
    warm = "".join(speaker.reply(turns, drawn))
    assert speaker.engine.stats["cached_tokens"] >= 64
    speaker.open()
    assert "".join(speaker.reply(turns, drawn)) == warm and speaker.engine.stats["cached_tokens"] == 0


def test_an_answer_that_is_not_heard_out(in_room):
    """Left between two pieces its slot is free; stopped inside a step nothing of that engine is used again."""
    speaker = chat.open_chat(next(in_room.glob("dpo-*")))
    asked, options = (Message("user", "What is 1 + 1?"),), ChatOptions(max_tokens=30, temperature=1)
    whole = "".join(speaker.reply(asked, options))
    pieces = speaker.reply(asked, options)
    next(pieces)
    assert not speaker.engine.free_slots
    pieces.close()
    assert speaker.engine.free_slots == 1 and "".join(speaker.reply(asked, options)) == whole

    def interrupted():
        raise KeyboardInterrupt
    speaker.engine.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(speaker.reply(asked, options))
    assert "".join(speaker.reply(asked, options)) == whole
