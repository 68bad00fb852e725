"""The stage of reinforcement learning: every verb runs, stops and goes on to the same bits, and is held where asked."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawing_data import config as shape
from drawing_data import policy, prompts, reward

from bloomery.align import rl
from bloomery.align.rollout import Forced
from bloomery.core.errors import ConfigError, Preempted
from bloomery.core.metrics import read_metrics
from bloomery.core.records import Message
from bloomery.core.toml import overlaid
from bloomery.model.scalar import load_scalar
from bloomery.model.store import load_model
from bloomery.stages import REINFORCEMENTS, STAGES
from bloomery.text.chat import load_renderer
from bloomery.train import checkpoint

ROOT = Path(__file__).parents[2]
FAST = {"steps": 3, "prompts": 4, "samples": 4, "precision": "fp32", "sampling": {"max_tokens": 6},
        "optimizer": {"lr": 1e-3, "warmup": 0.0}, "validate_every": 2, "save_every": 1, "look": {"prompts": 4},
        "reward": {"verifier": "exact"}}


@pytest.fixture(autouse=True)
def own_handlers(handlers):
    """Stages put in signal handlers of their own."""


@pytest.fixture(scope="module")
def vowels(tmp_path_factory) -> Path:
    """A reward every answer gets another number of."""
    path = tmp_path_factory.mktemp("reward") / "vowels.py"
    path.write_text("def score(problem, answer):\n    return sum(map(ord, answer)) % 7 / 7\n", encoding="utf-8")
    return path


def options(verb: str, **given) -> rl.Config:
    own = {"samples": 1} if verb in ("ppo", "reinforce") else {}
    known = {"model": str(policy()), "data": str(prompts()), "validation": str(prompts())}
    values = overlaid(overlaid(STAGES[verb].preset, FAST | own | known), given)
    return rl.Config.model_validate_json(json.dumps(values), strict=True)


def made(verb: str, out: Path, *, dictated=None, **given) -> dict:
    out.mkdir(exist_ok=True)
    return rl.run(options(verb, **given), out, dictated=dictated)


def rows(out: Path) -> list[dict]:
    return [row for row in read_metrics(out / "metrics.jsonl") if "step_time" in row]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


ALWAYS = {"reward", "reward_std", "loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "step_time", "means",
          "rewards/function/mean", "rewards/function/std", "clip_ratio/low_mean", "clip_ratio/high_max",
          "clip_ratio/region_mean", "completions/mean_length", "completions/clipped_ratio",
          "sampling/logp_difference"}
OF_PPO = {"objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward",
          "objective/scores", "objective/kl_coef", "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg",
          "loss/value_avg", "val/clipfrac_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "lr", "episode"}


@pytest.mark.parametrize("verb", REINFORCEMENTS)
def test_every_verb_learns_from_what_it_draws_and_tells_it_under_the_usual_names(verb, vowels, tmp_path):
    found = made(verb, tmp_path, reward={"verifier": None, "function": str(vowels)})
    told = rows(tmp_path)
    assert [row["step"] for row in told] == [1, 2, 3] and told[0].keys() >= ALWAYS
    assert all(row["sampling/logp_difference"] < 1e-4 for row in told[:1]) and told[0]["grad_norm"] > 0
    assert told[0]["sampling/logp_difference_max"] < 1e-4 and told[0]["means"].startswith("answers earn")
    assert ("frac_reward_zero_std" in told[0]) == (verb not in ("ppo", "reinforce"))
    assert (told[0].keys() >= OF_PPO) == (verb == "ppo")
    assert ("objective/kl" in told[0]) == (verb in ("ppo", "rloo"))
    before, after = load_model(policy()), load_model(tmp_path)
    assert any(not torch.equal(*pair) for pair in zip(before.parameters(), after.parameters(), strict=True))
    assert (tmp_path / "critic" / "config.json").exists() == (verb == "ppo")
    assert found["val_finished"] > 0 and len(json.loads((tmp_path / "answers.json").read_text())) == 4


# --- the same to the bit ------------------------------------------------------------------------------------------

HELD = {"kl": {"beta": 0.1, "how": "adaptive", "target": 0.05, "horizon": 40.0, "place": "reward", "estimator": "k1"},
        "steps": 5, "save_every": 2, "background": False}


@pytest.mark.parametrize("verb", ["grpo", "ppo"])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(verb, vowels, tmp_path, monkeypatch):
    given = HELD | {"reward": {"verifier": None, "function": str(vowels)}}
    made(verb, tmp_path / "whole", **given)
    act, calls = rl.Learner.act, []

    def dies(learner, step):
        calls.append(step)
        if calls == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return act(learner, step)

    monkeypatch.setattr(rl.Learner, "act", dies)
    with pytest.raises(KeyboardInterrupt):
        made(verb, tmp_path / "cut", **given)
    made(verb, tmp_path / "cut", **given)
    assert calls == [0, 1, 2, 3, 2, 3, 4]
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    timeless = [[{k: v for k, v in row.items() if "time" not in k} for row in rows(tmp_path / name)]
                for name in ("cut", "whole")]
    differing = {"sampling/logp_difference_max"}
    assert [{k: v for k, v in row.items() if k not in differing} for row in timeless[0]] == \
        [{k: v for k, v in row.items() if k not in differing} for row in timeless[1]]
    betas = [row["objective/kl_coef"] for row in timeless[1]]
    assert len(set(betas)) > 1                                  # the controller has moved, and was remembered


@pytest.mark.slow
def test_kill_9_leaves_nothing_that_is_not_gone_on_from(vowels, tmp_path):
    deadly = tmp_path / "deadly.py"
    deadly.write_text(f"import os, signal\nfrom pathlib import Path\nMARK = Path({str(tmp_path / 'mark')!r})\n"
                      "def score(problem, answer):\n"
                      "    MARK.open('a').write('x')\n"
                      "    if MARK.stat().st_size == 60:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
                      "    return sum(map(ord, answer)) % 7 / 7\n", encoding="utf-8")
    given = [f"model={policy()}", f"data={prompts()}", "steps=5", "prompts=4", "samples=4", "precision=fp32",
             "sampling.max_tokens=6", "optimizer.lr=1e-3", "optimizer.warmup=0.0", "save_every=1"]

    def run(out: str, function: Path) -> int:
        return subprocess.run([sys.executable, "-m", "bloomery.cli", "grpo", *given, f"reward.function={function}",
                               f"out={tmp_path / out}"], cwd=ROOT, capture_output=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode

    assert run("cut", deadly) == -signal.SIGKILL
    assert run("cut", deadly) == 0 and run("whole", deadly) == 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_asked_to_stop_it_saves_and_says_how_to_go_on(vowels, tmp_path, monkeypatch):
    given = {"reward": {"verifier": None, "function": str(vowels)}, "save_every": 100}
    made("rloo", tmp_path / "whole", **given)
    act, asked = rl.Learner.act, []

    def interrupted(learner, step):
        if step == 1 and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        return act(learner, step)

    monkeypatch.setattr(rl.Learner, "act", interrupted)
    with pytest.raises(Preempted, match="stopped and saved"):
        made("rloo", tmp_path / "cut", **given)
    made("rloo", tmp_path / "cut", **given)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize("verb", ["grpo", "dapo", "ppo"])
def test_whatever_the_memory_the_steps_are_the_same(verb, vowels, tmp_path):
    given = {"reward": {"verifier": None, "function": str(vowels)}, "minibatches": 2, "epochs": 2, "steps": 1}
    for tokens in (8192, 60):
        made(verb, tmp_path / str(tokens), micro_tokens=tokens, **given)
    first, second = (rows(tmp_path / str(tokens))[0] for tokens in (8192, 60))
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-5)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-3)
    assert first["updates"] == 4 and not math.isnan(second["clip_ratio/low_min"])


def test_two_processes_take_the_steps_of_one(vowels, tmp_path):
    own = {"steps": 2, "micro_tokens": 60, "reward": {"verifier": None, "function": str(vowels)}, "kl": {"beta": 0.1}}
    made("grpo", tmp_path / "one", **own)
    given = [f"model={policy()}", f"data={prompts()}", f"validation={prompts()}", "steps=2", "prompts=4", "samples=4",
             "precision=fp32", "sampling.max_tokens=6", "optimizer.lr=1e-3", "optimizer.warmup=0.0", "micro_tokens=60",
             f"reward.function={vowels}", "kl.beta=0.1", "look.prompts=4", "validate_every=2", "save_every=1"]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
                           "bloomery.cli", "grpo", *given, f"out={tmp_path / 'two'}"], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


# --- held -----------------------------------------------------------------------------------------------------------

def test_beyond_its_budget_a_policy_goes_back_to_where_it_was_within(vowels, tmp_path):
    given = {"reward": {"verifier": None, "function": str(vowels)}, "steps": 20, "validate_every": 1,
             "kl": {"budget": 0.05, "samples": 64}, "look": {"prompts": 8}, "optimizer": {"lr": 1e-2}}
    found = made("grpo", tmp_path, **given)
    assert "beyond its budget" in found["ended"] and found["val_kl"] <= 0.05
    told = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "val_kl" in row]
    assert told[-1]["val_kl"] > 0.05 and all(row["val_kl"] <= 0.05 for row in told[:-1])
    kept = checkpoint.checkpoints(tmp_path / "checkpoints")
    saved = checkpoint.whole_model(shape(), kept[-1], torch.float32)
    assert int(kept[-1].name[5:]) == told[-2]["step"] and told[-1]["step"] == told[-2]["step"] + 1
    for one, other in zip(saved.parameters(), load_model(tmp_path).parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_gold_reward_that_stops_rising_ends_the_run_at_its_best(vowels, tmp_path):
    against = tmp_path / "gold.py"
    against.write_text("def score(problem, answer):\n    return -(sum(map(ord, answer)) % 7 / 7)\n", encoding="utf-8")
    given = {"reward": {"verifier": None, "function": str(vowels)}, "gold": {"function": str(against)}, "steps": 40,
             "validate_every": 5, "patience": 1, "look": {"prompts": 12, "samples": 4}, "optimizer": {"lr": 3e-3}}
    found = made("rloo", tmp_path, kl={"beta": 0.0}, **given)
    told = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "val_gold" in row]
    best = max(told, key=lambda row: row["val_gold"])
    assert "gold reward was best" in found["ended"] and len(told) < 9
    assert found["val_gold_win_rate_low"] <= found["val_gold_win_rate"] <= found["val_gold_win_rate_high"]
    assert found["val_gold"] == best["val_gold"] > told[-1]["val_gold"] and told[-1]["val_reward"] > best["val_reward"]


def test_a_large_step_leaves_the_rest_of_its_rollout_alone(vowels, tmp_path):
    given = {"reward": {"verifier": None, "function": str(vowels)}, "epochs": 4, "optimizer": {"lr": 3e-2}}
    made("grpo", tmp_path / "held", stop_kl=0.01, **given)
    made("grpo", tmp_path / "free", **given)
    held, free = ([row["updates"] for row in rows(tmp_path / name)] for name in ("held", "free"))
    assert free == [4, 4, 4] and min(held) < 4
    assert checkpoint.checkpoints(tmp_path / "held" / "checkpoints")[-1].name == "step-00000012"


def test_dapo_replaces_prompts_that_teach_nothing_and_masks_what_was_cut_off(tmp_path):
    renderer = load_renderer(policy())
    end, known = [renderer.end], []

    def answers(problem, step):
        """The first four prompts are hopeless; of all others one answer is right, and one is cut off."""
        known.append(problem.id)
        right = renderer.answer(problem.answer)
        return [right, renderer.answer("x"), renderer.answer("y"), right[:-1]] if len(known) > 4 else [[*end]] * 4

    made("dapo", tmp_path, dictated=Forced(renderer, answers), steps=1, redraws=2)
    (told,) = rows(tmp_path)
    assert len(known) == 8 and told["frac_reward_zero_std"] == 0 and told["reward"] == 0.5
    assert told["completions/clipped_ratio"] == 0.25


# --- critics, adapters, text ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "start"), [("shared", None), ("own", "reward"), ("own", "policy")])
def test_a_critic_may_be_a_head_a_reward_model_or_a_copy(kind, start, vowels, tmp_path):
    critic = {"kind": kind} | ({"model": str(reward() if start == "reward" else policy())} if start else {})
    made("ppo", tmp_path, critic=critic, reward={"verifier": None, "function": str(vowels)})
    told = rows(tmp_path)
    assert all(math.isfinite(row["loss/value_avg"]) for row in told)
    if kind == "own":
        before, after = load_scalar(reward()) if start == "reward" else None, load_scalar(tmp_path / "critic")
        assert after.score.weight.abs().sum() > 0
        assert before is None or not torch.equal(before.score.weight, after.score.weight)
    load_model(tmp_path)


@pytest.mark.parametrize("verb", ["grpo", "ppo"])
def test_the_reference_of_an_adapter_is_the_model_without_it(verb, vowels, tmp_path):
    given = {"reward": {"verifier": None, "function": str(vowels)}, "adapt": {"method": "lora", "rank": 4},
             "kl": {"beta": 0.1}}
    made(verb, tmp_path, **given)
    told = rows(tmp_path)
    assert told[0]["objective/kl"] == pytest.approx(0, abs=1e-4) and told[-1]["objective/kl"] != 0
    assert (tmp_path / "adapter").is_dir()
    load_model(tmp_path)


def test_text_beside_it_is_learned_too(vowels, tmp_path):
    from drawing_data import chats
    given = {"reward": {"verifier": None, "function": str(vowels)}, "steps": 4}
    made("ppo", tmp_path / "without", **given)
    made("ppo", tmp_path / "with", ptx={"data": str(chats()), "weight": 5.0}, **given)
    told = rows(tmp_path / "with")
    assert told[-1]["loss/ptx"] < told[0]["loss/ptx"] and "loss/ptx" not in rows(tmp_path / "without")[0]


def test_a_sampler_that_cuts_is_trained_with_the_same_cuts_or_refused(vowels, tmp_path):
    given = {"reward": {"verifier": None, "function": str(vowels)}, "sampling": {"max_tokens": 6, "top_k": 5}}
    with pytest.raises(ConfigError, match="leaves tokens out"):
        made("ppo", tmp_path, **given)
    made("ppo", tmp_path, cuts_in_training=True, **given)
    assert rows(tmp_path)[0]["sampling/logp_difference_max"] < 1e-4


def test_a_prompt_behind_which_a_reward_model_could_not_read_an_answer_to_its_end_is_left_out(tmp_path):
    renderer, text = load_renderer(policy()), "What is 1 + 2?"
    while len(renderer.prompt((Message("user", text),))) < shape().context - 12:
        text += " 1"
    rows = [*prompts().read_text(encoding="utf-8").splitlines(), json.dumps({"prompt": text, "answer": "3"})]
    data = tmp_path / "prompts.jsonl"
    data.write_text("\n".join(rows), encoding="utf-8")
    for name, given in {"number": {"verifier": "number"}, "judged": {"models": [str(reward())]}}.items():
        found = made("rloo", tmp_path / name, data=str(data), steps=1, reward={"verifier": None} | given)
        assert found["prompts_without_room"] == (name == "judged")


def test_a_world_that_pays_needs_no_other_reward(tmp_path):
    world = tmp_path / "world.py"
    world.write_text("from bloomery.align.environment import Reply\n\nclass Environment:\n    stops = ()\n"
                     "    def reset(self, problem):\n        return problem.prompt\n"
                     "    def step(self, said):\n        return Reply(reward=float(len(said)))\n", encoding="utf-8")
    made("grpo", tmp_path / "out", reward=None, environment=str(world))
    told = rows(tmp_path / "out")
    assert told[0]["rewards/environment/mean"] == told[0]["reward"] > 0


@pytest.mark.parametrize(("verb", "given", "match"), [
    ("grpo", {"samples": 1}, "one answer has no group"), ("rloo", {"samples": 1}, "one answer has no group"),
    ("reinforce", {"epochs": 2}, "learns once"), ("grpo", {"minibatches": 9}, "more minibatches"),
    ("grpo", {"adapt": {"method": "lora", "dropout": 0.1}}, "dropout"), ("grpo", {"ema": 0.9}, "no options of"),
    ("grpo", {"reward": None}, "nothing says"),
    ("grpo", {"kl": {"budget": 1.0}, "look": {"prompts": 0}}, "nobody measures")])
def test_what_excludes_each_other_is_said_before_anything_is_read(verb, given, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        made(verb, tmp_path, **given)
