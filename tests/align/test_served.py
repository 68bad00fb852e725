"""A vLLM server draws in the engine's place: the same weights, ids and log-probabilities. A stub speaks its API."""

import json
from pathlib import Path

import pytest
import torch
from drawing_data import policy, prompts
from stub_vllm import serving

from bloomery.align import rl, served
from bloomery.align.environment import Calculator
from bloomery.align.rollout import Actor, Asked
from bloomery.align.served import RolloutConfig, Served
from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine
from bloomery.core.metrics import read_metrics
from bloomery.data.formats import problems
from bloomery.generate.engine import Engine
from bloomery.generate.request import Request
from bloomery.generate.sampling import AS_IS, Sampling
from bloomery.model.lora import LoraConfig, attach, lora_weights, using
from bloomery.model.store import load_model
from bloomery.text.chat import load_renderer
from bloomery.train.team import Team

ASKED = Request((5, 6, 7), 6, n=3, seed=4)


@pytest.fixture(autouse=True)
def own_handlers(handlers):
    """Stages put in signal handlers of their own."""


@pytest.fixture
def stub():
    with serving(policy()) as found:
        yield found


@pytest.fixture(scope="module")
def renderer():
    return load_renderer(policy())


def engine(stub, renderer, folder: Path, **options) -> Served:
    return Served(RolloutConfig(backend="vllm", url=stub.url, **options), renderer.tokenizer, folder, context=64,
                  team=Team())


def ids(answers: list) -> list[list[int]]:
    return [[token.id for token in one.tokens] for one in answers]


@pytest.mark.parametrize("how", [AS_IS, Sampling(0.7), Sampling(1.0, top_k=4), Sampling(0.0)])
def test_answers_are_those_of_our_own_engine(stub, renderer, tmp_path, how):
    n = 3 if how.temperature else 1
    asked = [Request((5, 6, 7 + i), 6, how=how, n=n, seed=i, ends=renderer.ends) for i in range(5)]
    mine = Engine(load_model(policy()), renderer.tokenizer, slots=4, context=64).generate(asked)
    theirs = engine(stub, renderer, tmp_path).generate(asked)
    assert theirs == [[type(one)([type(token)(token.id, token.logp, token.logp) for token in one.tokens], one.text,
                                 one.finish, one.matched) for one in group] for group in mine]
    assert len({tuple(body["prompt"]) for body in stub.bodies}) == 5


def test_a_stop_string_ends_the_text_and_not_the_ids(stub, renderer, tmp_path):
    (found,) = engine(stub, renderer, tmp_path).generate([Request(
        tuple(renderer.prompt(problems(str(prompts()), Quarantine())[0].prompt)), 6, how=AS_IS, n=4, seed=1,
        stops=("1", "2", "3", "0"))])
    stopped = [one for one in found if one.matched]
    assert stopped and all(one.matched not in one.text and one.finish == "stop" for one in stopped)
    assert all(one.matched in renderer.tokenizer.decode(one.ids) for one in stopped)


def test_weights_go_there_once_for_every_change_of_them(stub, renderer, tmp_path):
    model, there = load_model(policy()), engine(stub, renderer, tmp_path)
    for change in (0.0, 0.0, 0.3):
        if change:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(change * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        there.load(model)
    assert [Path(place).name for place in stub.loaded] == ["0", "1"]
    assert stub.paths == ["/collective_rpc", "/reset_prefix_cache"] * 2
    mine = Engine(model, renderer.tokenizer, slots=4, context=64).generate([ASKED])
    assert ids(there.generate([ASKED])[0]) == ids(mine[0])


def test_an_adapter_is_served_merged_or_not_at_all_where_it_is_off(stub, renderer, tmp_path):
    model, there = load_model(policy()), engine(stub, renderer, tmp_path)
    base = ids(Engine(load_model(policy()), slots=4, context=64).generate([ASKED])[0])
    attach(model, LoraConfig(rank=4), 0)
    with torch.no_grad():
        for weight in lora_weights(model, "default"):
            weight.add_(0.5)
    there.load(model)
    changed = ids(there.generate([ASKED])[0])
    with using(model, None):
        there.load(model)
        assert ids(there.generate([ASKED])[0]) == base != changed
    assert len(stub.loaded) == 2


def test_a_world_may_interrupt_what_the_server_says(stub, renderer, tmp_path):
    row = problems(str(prompts()), Quarantine())[0]
    acts = Actor(engine(stub, renderer, tmp_path), renderer, AS_IS, samples=3, max_tokens=12, world=Calculator)
    (group,) = acts(load_model(policy()), [Asked(row, renderer.prompt(row.prompt), 0)], step=0)
    assert all(len(one.ids) == len(one.logps) == len(one.own) <= 12 for one in group.trajectories)
    assert {tuple(body["stop"]) for body in stub.bodies} == {("=",)}


def trained(out: Path, **rollout: object) -> list[dict]:
    out.mkdir()
    rl.run(rl.Config.model_validate_json(json.dumps({
        "model": str(policy()), "data": str(prompts()), "validation": str(prompts()), "steps": 3, "prompts": 4,
        "samples": 4, "precision": "fp32", "sampling": {"max_tokens": 6}, "optimizer": {"lr": 1e-3, "warmup": 0.0},
        "reward": {"verifier": "exact"}, "look": {"prompts": 4}, "rollout": rollout}), strict=True), out)
    return [row for row in read_metrics(out / "metrics.jsonl") if "step_time" in row]


def test_a_run_that_draws_elsewhere_is_the_same_run(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(served, "SEEDS", 2**64)                 # the stub takes all of ours
    here = trained(tmp_path / "here")
    there = trained(tmp_path / "there", backend="vllm", url=stub.url)
    assert len(stub.loaded) >= 3 and all(row["sampling/logp_difference"] < 1e-4 for row in there)
    assert [row["reward"] for row in there] == [row["reward"] for row in here]
    mine, theirs = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("here", "there"))
    assert mine == theirs


@pytest.mark.parametrize(("spoiled", "why"), [
    ({"token_ids": None}, "which tokens it drew"), ({"logprobs": None}, "how likely they were"),
    ({"logprobs": {"token_logprobs": [None] * 6}}, "how likely")])
def test_an_answer_without_ids_or_log_probabilities_is_refused(stub, renderer, tmp_path, spoiled, why):
    stub.spoil = lambda choice: choice | spoiled
    with pytest.raises(InputError, match="cannot be used") as caught:
        engine(stub, renderer, tmp_path).generate([ASKED])
    assert why in caught.value.why and "vLLM 0.10.2" in caught.value.hint


def test_a_server_that_is_not_in_development_mode_is_told_so(renderer, tmp_path):
    with serving(policy(), development=False) as found, pytest.raises(InputError, match="no new weights") as caught:
        engine(found, renderer, tmp_path).load(load_model(policy()))
    assert "404" in caught.value.why and "VLLM_SERVER_DEV_MODE=1" in caught.value.hint
