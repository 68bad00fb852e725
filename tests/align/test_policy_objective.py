"""The objective over forests against losses written out over padded rows, and batches that add up however cut."""

from dataclasses import replace

import pytest
import torch
from preference_data import CONFIG, drawn

from bloomery.align.critic import ActorCritic, headed
from bloomery.align.experience import experience, minibatches
from bloomery.align.kl import exact_kl
from bloomery.align.policy_objective import SurrogateConfig, Terms, objective
from bloomery.align.rollout import Group, Trajectory, read_groups
from bloomery.align.spoken import spoken
from bloomery.core.records import Message, Problem
from bloomery.data.batch import rectangle
from bloomery.generate.sampling import AS_IS, Sampling
from bloomery.model.forest import DenseForest
from bloomery.model.transformer import Transformer
from bloomery.train.team import Team

PROBLEM = Problem((Message("user", "?"),), "")
OPTIONS = {"parts": 1, "epoch": 0, "step": 0, "seed": 0, "longest": 12}


def some_groups(prompts: int = 4, samples: int = 3) -> list[Group]:
    generator = torch.Generator().manual_seed(5)
    groups = []
    for _ in range(prompts):
        group = Group(PROBLEM, drawn(generator, 2, 9), [])
        for _ in range(samples):
            ids = drawn(generator, 1, 9)
            one = Trajectory(finish="stop" if len(ids) % 2 else "length")
            one.add(ids, (-3 - torch.rand(len(ids), generator=generator)).tolist(), own=True)
            if len(ids) > 4:
                one.own[2] = False                              # a world has put a word in between
            group.trajectories.append(one)
        groups.append(group)
    return groups


def learned(groups: list[Group], model: Transformer, *, mask: bool = False):
    generator = torch.Generator().manual_seed(6)
    found = experience(groups, mask_overlong=mask)
    for name in ("reference", "advantage", "values", "returns"):
        setattr(found, name, torch.randn(len(found.behaviour), generator=generator))
    found.reference = found.reference / 5 - 3.7
    (found.old,) = read_groups(lambda batch: [spoken(model, batch).logp.detach()], groups, 8192, Team())
    found.old = found.old + 0.3 * torch.randn(len(found.old), generator=generator)
    return found


def padded_logps(model: Transformer, groups: list[Group], how: Sampling = AS_IS) -> torch.Tensor:
    """log p of every token of every trajectory, one row each, by whole padded sequences."""
    pairs = [(group.prompt, one) for group in groups for one in group.trajectories]
    wide = max(len(prompt) + len(one.ids) for prompt, one in pairs)
    batch = rectangle(torch.tensor([[*p, *o.ids, *[0] * (wide - len(p) - len(o.ids))] for p, o in pairs]))
    logits = model.logits(model(batch.ids, batch.positions, DenseForest(batch.segments)))
    logp = (logits / how.temperature).log_softmax(-1).gather(-1, batch.targets[:, None]).view(len(pairs), wide - 1)
    return [logp[i, len(p) - 1:len(p) - 1 + len(o.ids)][torch.tensor(o.own)] for i, (p, o) in enumerate(pairs)]


@pytest.mark.parametrize("normalise", ["grpo", "bnpo", "dapo", "dr_grpo", "sum"])
@pytest.mark.parametrize("mask", [False, True])
def test_a_forest_gives_the_loss_and_gradient_of_padded_rows(normalise, mask):
    model, groups, how = Transformer(CONFIG, seed=1), some_groups(), Sampling(0.8)
    found = learned(groups, model, mask=mask)
    terms = Terms(SurrogateConfig(clip_high=0.28), "k3", corrected=True, in_loss=True, how=how)
    ((*batches,),) = minibatches(found, micro_tokens=40, normalise=normalise, beta=0.1, **OPTIONS)
    assert len(batches) > 1
    count = sum(batch.count for batch in batches)
    loss = sum(objective(terms)(model, batch)[0] for batch in batches) / count
    loss.backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    lengths, losses, at = found.lengths.tolist(), [], 0
    for logp, length in zip(padded_logps(model, groups, how), lengths, strict=True):
        own = slice(at, at + length)
        ratio, a = (logp - found.old[own]).exp(), found.advantage[own]
        apart = found.reference[own] - logp
        losses.append(-torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a) + 0.1 * ratio * (apart.expm1() - apart))
        at += length
    kept = [one if keep else one[:0] for one, keep in zip(losses, found.kept, strict=True)]
    by_group = [torch.cat(kept[i:i + 3]) for i in range(0, len(kept), 3)]
    whole = torch.cat(kept)
    wanted = {"grpo": sum(one.mean() for one in kept if len(one)) / len(kept), "dapo": whole.mean(),
              "bnpo": sum(one.mean() for one in by_group if len(one)) / len(by_group),
              "dr_grpo": whole.sum() / (len(kept) * 12), "sum": whole.sum() / len(kept)}[normalise]
    wanted.backward()
    assert float(loss) == pytest.approx(float(wanted), rel=1e-4)
    for one, other in zip(ours, model.parameters(), strict=True):
        assert torch.allclose(one, other.grad, atol=1e-5, rtol=1e-3)


def test_whatever_the_micro_batches_metrics_are_means_over_tokens():
    model, groups = Transformer(CONFIG, seed=1), some_groups()
    found, terms = learned(groups, model), Terms(SurrogateConfig(), in_loss=True)

    def told(micro_tokens: int) -> dict:
        ((*batches,),) = minibatches(found, micro_tokens=micro_tokens, normalise="grpo", beta=0.1, **OPTIONS)
        count = sum(batch.count for batch in batches)
        each = [objective(terms)(model, batch)[1] for batch in batches]
        return {name: sum(metrics[name] for metrics in each) / count for name in each[0]}

    one, other = told(8192), told(30)
    assert one == pytest.approx(other, rel=1e-4)
    (logp,) = read_groups(lambda batch: [spoken(model, batch).logp.detach()], groups, 8192, Team())
    assert one["val/ratio"] == pytest.approx(float((logp - found.old).exp().mean()), rel=1e-4)
    assert one["sampling/logp_difference"] == pytest.approx(float((logp - found.behaviour).abs().mean()), rel=1e-4)


def test_updates_are_dealt_anew_every_epoch_and_together_visit_each_group_once():
    found = experience(some_groups(prompts=6))

    def dealt(epoch: int) -> list[list[list[int]]]:
        parts = minibatches(found, micro_tokens=8192, normalise="grpo", beta=0.0, **OPTIONS | {"parts": 3,
                                                                                            "epoch": epoch})
        return [sorted(batch.ids.tolist() for batch in part) for part in parts]

    first, second = dealt(0), dealt(1)
    assert len(first) == 3 and first != second and dealt(0) == first
    assert sum(len(batch) for part in first for batch in part) == sum(len(b) for part in second for b in part)


def test_a_minibatch_of_nothing_but_cut_off_answers_is_empty():
    groups = some_groups()
    for group in groups:
        for one in group.trajectories:
            one.finish = "length"
    assert minibatches(experience(groups, mask_overlong=True), micro_tokens=40, normalise="grpo", beta=0.0,
                       **OPTIONS) == [[]]


def test_an_exact_kl_is_that_of_whole_distributions_and_an_entropy_is_kept_up():
    model, reference, groups = Transformer(CONFIG, seed=1), Transformer(CONFIG, seed=2), some_groups()
    found = learned(groups, model)
    ((batch,),) = minibatches(found, micro_tokens=8192, normalise="dapo", beta=0.5, **OPTIONS)
    ours, theirs = (spoken(each, batch, whole=True).spread for each in (model, reference))
    plain, _ = objective(Terms(SurrogateConfig()))(model, batch)
    tied, told = objective(Terms(SurrogateConfig(), "exact", in_loss=True), reference)(model, batch)
    kl = exact_kl(ours, theirs)
    assert float(tied - plain) / batch.count == pytest.approx(0.5 * float(kl.mean()), rel=1e-4)
    assert told["kl"] / batch.count == pytest.approx(float(kl.mean()), rel=1e-4)
    livelier, told = objective(Terms(SurrogateConfig(entropy=0.25)))(model, batch)
    entropy = float(-(ours.exp() * ours).sum(-1).mean())
    assert float(livelier - plain) / batch.count == pytest.approx(-0.25 * entropy, rel=1e-4)


def test_a_fresh_policy_is_its_own_old_one_and_learns_as_reinforce_does():
    model, groups = Transformer(CONFIG, seed=1), some_groups()
    found = learned(groups, model)
    ((batch,),) = minibatches(found, micro_tokens=8192, normalise="sum", beta=0.0, **OPTIONS)
    gradients = []
    for terms in (Terms(SurrogateConfig(), fresh=True), Terms(SurrogateConfig(policy="reinforce"))):
        model.zero_grad()
        loss, told = objective(terms)(model, batch)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert told["policy/approxkl_avg"] == 0 or not terms.fresh
    assert torch.allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_a_value_is_of_the_state_before_its_token(kind):
    """Another token at place t changes the values after it, and not its own."""
    policy = Transformer(CONFIG, seed=1)
    model = ActorCritic(policy, headed(Transformer(CONFIG, seed=2)) if kind == "own" else None)
    head = model.critic.score if kind == "own" else model.value
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(3))

    def values(ids: list[int]) -> torch.Tensor:
        one = Trajectory(finish="stop")
        one.add(ids, [0.0] * len(ids), own=True)
        ((batch,),) = minibatches(experience([Group(PROBLEM, [1, 2, 3], [one])]), micro_tokens=99, normalise="dapo",
                                  beta=0.0, **OPTIONS)
        said = spoken(policy, batch)
        return model.values(batch, said.rows, said.hidden).detach()

    one, other = values([4, 5, 6, 7]), values([4, 9, 6, 7])
    assert torch.allclose(one[:2], other[:2]) and not torch.isclose(one[2:], other[2:]).any()


def test_the_value_loss_reaches_the_critic_and_not_the_policy_of_another_network():
    policy = Transformer(CONFIG, seed=1)
    model, found = ActorCritic(policy, headed(Transformer(CONFIG, seed=2))), learned(some_groups(), policy)
    found.advantage = torch.zeros_like(found.advantage)
    ((batch,),) = minibatches(found, micro_tokens=8192, normalise="dapo", beta=0.0, **OPTIONS)
    loss, told = objective(Terms(SurrogateConfig(), value_coefficient=0.5, value_clip=None))(model, batch)
    loss.backward()
    assert float(loss) / batch.count == pytest.approx(0.25 * float(found.returns.square().mean()), rel=1e-4)
    assert all(not p.grad.any() for p in policy.parameters()) and model.critic.score.weight.grad.abs().sum() > 0
    assert told["loss/value_avg"] / batch.count == pytest.approx(float(loss) / batch.count * 2, rel=1e-4)


def test_truncated_importance_weighs_each_token_by_how_far_the_sampler_was_off():
    model, groups = Transformer(CONFIG, seed=1), some_groups()
    found = learned(groups, model)
    ((batch,),) = minibatches(found, micro_tokens=8192, normalise="dapo", beta=0.0, **OPTIONS)
    off = replace(batch, behaviour=batch.old - 1)
    capped = objective(Terms(SurrogateConfig(importance_cap=1.5)))(model, off)[0]
    assert float(capped) == pytest.approx(1.5 * float(objective(Terms(SurrogateConfig()))(model, off)[0]), rel=1e-4)
