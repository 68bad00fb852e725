"""Stages in rounds: what they draw, keep and learn, folders of their own, and a stop that changes nothing."""

import json
import signal
from pathlib import Path

import pytest
import torch
from drawing_data import chats, policy, prompts, reward, shortest

from bloomery.align import candidates, online, rejection, spin
from bloomery.align.candidates import Candidate, Group, SamplingConfig, draw, read, room, scored
from bloomery.align.online import best_and_worst
from bloomery.align.rejection import kept
from bloomery.align.rounds import NothingToLearn
from bloomery.core.artifacts import is_done
from bloomery.core.errors import ConfigError, InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import read_metrics
from bloomery.core.records import Message, Problem
from bloomery.data.formats import conversations, preferences, problems
from bloomery.data.likelihood import score_answers
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer

FAST = {"steps": 2, "rounds": 2, "prompts": 8, "precision": "fp32", "sampling": {"max_tokens": 6, "temperature": 1.5},
        "watch": {"prompts": 4, "max_tokens": 6}, "optimizer": {"lr": 1e-3, "warmup": 0.0}}


@pytest.fixture(autouse=True)
def handlers():
    """A stage puts in signal handlers of its own; the test process gets its own back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def made(stage, out: Path, **options) -> dict:
    out.mkdir(exist_ok=True)
    data = chats() if stage is spin else prompts()
    given = FAST | {"model": str(policy()), "data": str(data), "validation": str(data)} | options
    return stage.run(stage.Config.model_validate_json(json.dumps(given), strict=True), out)


def same_files(one: Path, other: Path) -> None:
    """Everything but logs and clocks is the same to the byte."""
    names = ["model.safetensors", *(f"round-{number}/{name}" for number in (1, 2) for name in
             ("candidates.jsonl", "chosen.jsonl", "pairs.jsonl", "model.safetensors", "answers.json"))]
    found = [name for name in names if (one / name).is_file()]
    assert len(found) >= 8
    for name in found:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def candidate(text: str, score: float, *, finished: bool = True, ids: tuple[int, ...] = ()) -> Candidate:
    return Candidate(list(ids) or [len(text) + 1, 7], text, finished, -1.0, score)


def group(*answers: Candidate) -> Group:
    return Group(Problem((Message("user", "?"),), "", id="p"), [1, 2], list(answers))


# --- drawing ------------------------------------------------------------------------------------------------------

def test_drawn_answers_are_kept_with_how_likely_they_were():
    model, renderer = load_model(policy()), load_renderer(policy())
    asked, without_room = room(problems(str(prompts()), Quarantine())[:3], renderer, 64, where="x")
    path = policy().parent / "drawn.jsonl"
    groups = draw(model, renderer, asked, SamplingConfig(max_tokens=6), n=5, seed=1, path=path)
    assert without_room == 0 and [len(g.candidates) for g in groups] == [5, 5, 5]
    for g in groups:
        (logps,) = score_answers(model, [g.prompt], [[one.ids for one in g.candidates]])
        assert [one.logp for one in g.candidates] == pytest.approx(logps, abs=1e-3)
        for one in g.candidates:
            assert one.finished == (one.ids[-1] in renderer.ends) and len(one.ids) <= 6
            assert one.text == renderer.tokenizer.decode(one.ids[:-1] if one.finished else one.ids).strip()
    assert draw(model, renderer, asked, SamplingConfig(max_tokens=6), n=5, seed=2, path=path.with_name("2")) != groups


def test_a_file_that_was_cut_off_is_gone_on_with_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "CHUNK", 2)
    model, renderer, path = load_model(policy()), load_renderer(policy()), tmp_path / "candidates.jsonl"
    asked, _ = room(problems(str(prompts()), Quarantine())[:7], renderer, 64, where="x")

    def drawn() -> list[Group]:
        return draw(model, renderer, asked, SamplingConfig(max_tokens=6), n=2, seed=0, path=path)

    groups, whole = drawn(), path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 5, len(whole)):
        path.write_bytes(whole[:length])
        assert drawn() == groups and path.read_bytes() == whole


def test_prompts_that_leave_no_room_are_counted_and_all_of_them_are_an_error():
    renderer, long = load_renderer(policy()), Problem((Message("user", "word " * 80),), "", id="long")
    short = Problem((Message("user", "?"),), "", id="short")
    fitting, count = room([long, short], renderer, 64, where="here")
    assert [problem.id for problem, _ in fitting] == ["short"] and count == 1
    with pytest.raises(InputError, match="no prompt leaves room"):
        room([long], renderer, 64, where="here")


def test_equal_answers_are_scored_once_and_one_that_was_cut_off_loses():
    said = []

    def score(asked, texts):
        said.extend(texts)
        return [[float(len(text)) for text in group] for group in texts]

    (found,) = scored([group(candidate("aa", 0), candidate("b", 0), candidate("aa", 0, finished=False))], score,
                      missing_end=1.5)
    assert said == [["aa", "b"]] and found.scores == [2.0, 1.0, 0.5]


# --- choosing -----------------------------------------------------------------------------------------------------

def test_the_best_answers_are_kept_and_every_other_has_its_reason():
    answers = group(candidate("good", 3), candidate("good", 3), candidate("cut", 9, finished=False), candidate("", 8),
                    candidate("fair", 2), candidate("third", 1), candidate("poor", -1))
    chosen, dropped = kept([answers], top=2, threshold=0.0)
    assert [one.text for _, one in chosen] == ["good", "fair"]
    assert dropped == {"dropped/duplicate": 1, "dropped/unfinished": 1, "dropped/empty": 1,
                       "dropped/not_among_the_best": 1, "dropped/below_threshold": 1}


def test_the_best_stands_against_the_worst_unless_nothing_is_between_them():
    pair = group(candidate("fair", 1), candidate("best", 3), candidate("worst", -1, finished=False))
    equal = group(candidate("a", 1), candidate("b", 1))
    same = group(candidate("a", 1, ids=(3, 7)), candidate("a", 1.0000001, ids=(3, 7)))
    mute = group(candidate("", 1, ids=(7,)), candidate("b", 0))
    rows, dropped = best_and_worst([pair, equal, same, mute])
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in rows] == [("best", "worst", 4)]
    assert dropped == {"dropped/equal_scores": 1, "dropped/equal_answers": 1, "dropped/empty_answers": 1}
    assert best_and_worst([pair], least_gap=4)[1] == {"dropped/equal_scores": 1}


# --- rejection ----------------------------------------------------------------------------------------------------

def test_rejection_learns_from_its_best_answers_in_rounds_that_are_artefacts(tmp_path):
    out = tmp_path / "out"
    found = made(rejection, out, reward={"function": str(shortest())}, gold={"verifier": "exact"}, n=4, top=2)
    for number in (1, 2):
        folder = out / f"round-{number}"
        assert is_done(folder) and len(read(folder / "candidates.jsonl")) == 8
        rows = conversations(str(folder / "chosen.jsonl"), Quarantine())
        drawn = {row["id"]: [one["text"] for one in row["candidates"]] for row in read(folder / "candidates.jsonl")}
        assert rows and all(row.messages[-1].content in drawn[row.id] for row in rows)
        assert [row["n"] for row in json.loads((folder / "best_of_n.json").read_text())] == [1, 2, 4]
        load_model(folder)
    assert found["rounds"] == 2 and found["best_of_n/kl_bound"]["1"] == 0 and "4" in found["best_of_n/gold"]
    assert found["reward_best"] >= found["reward"] and "val_win_rate_low" in found and "val_kl_exact" in found
    assert (out / "model.safetensors").read_bytes() == (out / "round-2/model.safetensors").read_bytes()
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == [1, 2]
    assert {row["id"] for row in read(out / "round-1/candidates.jsonl")} != \
        {row["id"] for row in read(out / "round-2/candidates.jsonl")}


def test_a_stop_anywhere_changes_no_byte(tmp_path, monkeypatch):
    options = {"reward": {"function": str(shortest())}, "n": 4}
    made(rejection, tmp_path / "whole", **options)
    finish, calls = rejection.finish, []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        finish(*arguments)

    monkeypatch.setattr(rejection, "finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        made(rejection, tmp_path / "again", **options)
    (tmp_path / "again/round-2/model.safetensors").unlink(missing_ok=True)
    cut = tmp_path / "again/round-2/candidates.jsonl"
    cut.write_bytes(cut.read_bytes()[:300])
    made(rejection, tmp_path / "again", **options)
    assert len(calls) == 3                                      # the first round was not made again
    same_files(tmp_path / "whole", tmp_path / "again")


def test_each_round_may_train_the_model_it_all_began_with(tmp_path):
    options = {"reward": {"function": str(shortest())}, "n": 4}
    made(rejection, tmp_path / "round", **options)
    made(rejection, tmp_path / "start", begin="start", **options)
    same = [(tmp_path / "round" / name).read_bytes() == (tmp_path / "start" / name).read_bytes()
            for name in ("round-1/model.safetensors", "round-2/candidates.jsonl", "round-2/model.safetensors")]
    assert same == [True, True, False]


def test_nothing_good_enough_is_an_error_at_first_and_the_end_later(tmp_path, monkeypatch, capsys):
    options = {"reward": {"function": str(shortest())}, "n": 2}
    with pytest.raises(NothingToLearn) as error:
        made(rejection, tmp_path / "never", threshold=1000.0, **options)
    assert "below_threshold" in error.value.why
    real, rounds = rejection.kept, []

    def once(*arguments, **given):
        rounds.append(1)
        chosen, dropped = real(*arguments, **given)
        return chosen if len(rounds) == 1 else [], dropped

    monkeypatch.setattr(rejection, "kept", once)
    assert made(rejection, tmp_path / "once", **options)["rounds"] == 1
    assert "ends after round 1: no answer was good enough" in capsys.readouterr().err
    assert (tmp_path / "once/model.safetensors").is_file()


# --- online and spin ----------------------------------------------------------------------------------------------

def test_online_learns_from_its_own_pairs_and_drops_those_of_older_policies(tmp_path):
    found = made(online, tmp_path / "out", reward={"models": [str(reward())]}, n=3, pairs=4, anchor="start",
                 sampling={"max_tokens": 6})
    rows = read(tmp_path / "out/round-1/pairs.jsonl")
    told = preferences(str(tmp_path / "out/round-1/pairs.jsonl"), Quarantine())
    assert 0 < len(told) <= len(rows) == 8 - sum(
        json.loads((tmp_path / "out/round-1/stage.json").read_text())["metrics"].get(f"dropped/{why}", 0)
        for why in ("equal_scores", "equal_answers", "empty_answers"))
    assert found["dropped/off_policy"] == len(rows) and found["pairs_replayed"] == 0
    assert {"objective/scores", "objective/scores_margin", "objective/kl", "objective/rlhf_reward", "val_win_rate_low",
            "val/contain_eos_token", "val_kl", "margin"} <= found.keys()
    assert set(found["scores_by_round"]) == {"1", "2"}


def test_replay_learns_from_the_pairs_of_the_round_before_too(tmp_path):
    found = made(online, tmp_path / "out", reward={"function": str(shortest())}, n=3, pairs=4, replay=1, rounds=3)
    counts = [len(read(tmp_path / f"out/round-{number}/pairs.jsonl")) for number in (1, 2, 3)]
    assert (found["pairs"], found["pairs_replayed"], found["dropped/off_policy"]) == (counts[2], counts[1], counts[0])


@pytest.mark.parametrize("anchor", ["round", "start"])
def test_what_the_policy_is_tied_to(tmp_path, anchor):
    """At the first step of the second round the implicit rewards are 0 only if the round's start is the reference."""
    made(online, tmp_path / "out", reward={"function": str(shortest())}, n=3, pairs=4, anchor=anchor)
    rows = [row for row in read_metrics(tmp_path / "out/round-2/metrics.jsonl") if "rewards/chosen" in row]
    assert (abs(rows[0]["rewards/chosen"]) < 1e-6) == (anchor == "round")


def test_an_adapter_is_merged_for_the_next_round_to_draw_from(tmp_path):
    found = made(online, tmp_path / "out", reward={"function": str(shortest())}, n=3, pairs=4,
                 adapt={"method": "lora", "rank": 2})
    before, after = load_model(policy()), load_model(tmp_path / "out")
    assert found["rounds"] == 2 and (tmp_path / "out/round-1/adapter").is_dir()
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    with pytest.raises(ConfigError, match="must be whole"):
        made(online, tmp_path / "prefix", reward={"function": str(shortest())}, adapt={"method": "prefix"})


def test_spin_prefers_the_datas_answers_to_its_own(tmp_path):
    found = made(spin, tmp_path / "out", loss="spin", pairs=8, steps=6, last_beta=1.0)
    wanted = {row.id: row.messages[-1].content for row in conversations(str(chats()), Quarantine())}
    rows = read(tmp_path / "out/round-1/pairs.jsonl")
    assert rows and all(row["chosen"] == wanted[row["id"]] and row["chosen_ids"] != row["rejected_ids"] for row in rows)
    second = json.loads((tmp_path / "out/round-2/stage.json").read_text())["metrics"]
    assert second["pairs_replayed"] == len(rows) and second["margin"] > 0
    assert set(found["margin_by_round"]) == {"1", "2"} and found["dropped/equal_answers"] >= 0


def test_spin_ends_when_the_margin_no_longer_grows():
    assert spin.flat([{"margin": 1.0}, {"margin": 1.5}], None) is None
    assert spin.flat([{"margin": 1.0}], 0.0) is None and spin.flat([{"margin": 1.0}, {"margin": 1.5}], 0.0) is None
    assert "from 1 to 0.9" in spin.flat([{"margin": 1.0}, {"margin": 0.9}], 0.0)


def test_losses_of_single_answers_make_no_rounds():
    with pytest.raises(ValueError, match="rounds make pairs"):
        online.Config(model="m", data="d", steps=1, reward={"verifier": "exact"}, loss="kto")
