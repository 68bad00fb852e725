"""What a loss is given: its paper's options and no others, votes, margins, lengths, and which tokens count."""

import math

import pytest
import torch
from preference_data import CONFIG, some_ratings

from bloomery.align.batches import pair_batch, rated
from bloomery.align.objectives import LossConfig, cached, pair_losses, pair_metrics, preference, rating, takes
from bloomery.align.pairs import Pair
from bloomery.core.config import check
from bloomery.data.likelihood import answer_logps, score_answers, token_logps
from bloomery.losses.preference import PAIRWISE, REFERENCE_FREE, UNPAIRED, dpo
from bloomery.model.transformer import Transformer
from bloomery.stages import PREFERENCES, STAGES

LOGP = torch.tensor([-4.0, -9.0, -8.0, -5.0], dtype=torch.float64)
REFERENCE = torch.tensor([-5.0, -8.0, -8.5, -5.5], dtype=torch.float64)
LENGTHS = torch.tensor([2, 4, 4, 1])
ONES, ZEROS = torch.ones(2), torch.zeros(2)


def losses(margin: torch.Tensor = ZEROS, share: torch.Tensor = ONES, **options) -> list[float]:
    return pair_losses(LossConfig(**options), LOGP, REFERENCE, LENGTHS, margin, share).tolist()


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# --- options ------------------------------------------------------------------------------------------------------

def test_a_loss_starts_at_its_paper_s_options():
    assert (LossConfig(loss="simpo").beta, LossConfig(loss="simpo").margin) == (2.0, 1.0)
    assert (LossConfig(loss="orpo").nll, LossConfig(loss="cpo").nll, LossConfig().nll) == (1.0, 1.0, 0.0)
    assert LossConfig(loss="robust").smoothing == 0.1 and LossConfig(loss="sppo").beta == 1e-3
    assert LossConfig(loss="simpo", beta=2.5).beta == 2.5 and LossConfig(loss="orpo", nll=0.0).nll == 0.0


@pytest.mark.parametrize(("values", "said"), [
    ({"loss": "hinge", "smoothing": 0.1}, "smoothing is no option of hinge, but of dpo, robust"),
    ({"loss": "ipo", "margin_scale": 1.0}, "margin_scale is no option of ipo"),
    ({"loss": "kto", "nll": 0.2}, "nll is no option of kto"),
    ({"loss": "dpo", "desirable_weight": 2.0}, "desirable_weight is no option of dpo, but of kto"),
    ({"loss": "simpo", "divergence": "js"}, "divergence is no option of simpo"),
    ({"nll_on": "all"}, "nll is 0: give nll too"),
    ({"loss": "slic"}, "must be 'dpo', 'robust'"),
    ({"beta": 0}, "must be greater than 0"),
])
def test_an_option_the_loss_does_not_look_at_is_refused(values, said):
    config, problems = check(LossConfig, values, locate=lambda keys: "here:")
    assert config is None and said in str(problems[0])


@pytest.mark.parametrize("verb", PREFERENCES)
def test_every_verb_is_a_loss_of_the_table_with_options_it_has(verb):
    config = LossConfig(**STAGES[verb].preset)
    assert config.loss in PAIRWISE | UNPAIRED and takes(config.loss)["beta"] == config.beta


def test_every_loss_has_a_verb_but_those_that_another_stage_or_option_is():
    losses = {STAGES[verb].preset["loss"] for verb in PREFERENCES}
    assert PAIRWISE.keys() | UNPAIRED.keys() == losses | {"spin", "ipo_sum"}


# --- numbers ------------------------------------------------------------------------------------------------------

def test_votes_are_soft_labels_of_any_loss():
    """h is 1, -1 and 0.5, 0.5: the second pair has no gap, so its votes change nothing."""
    share = torch.tensor([0.7, 0.7])
    expected = 0.7 * softplus(-0.2) + 0.3 * softplus(0.2)
    assert losses(share=share) == pytest.approx([expected, math.log(2)], abs=1e-7)
    assert losses(share=share, loss="hinge") == pytest.approx([0.7 * 0.8 + 0.3 * 1.2, 1.0], abs=1e-7)
    smoothed = dpo(torch.tensor([1.0]), torch.tensor([-1.0]), smoothing=0.3)
    assert losses(share=share)[0] == pytest.approx(float(smoothed), abs=1e-7)


def test_margins_lengths_and_means_enter_as_their_papers_have_them():
    margin = torch.tensor([0.5, 2.0])
    assert losses(margin) == losses()                                           # nobody asked for them
    assert losses(margin, margin_scale=0.2)[0] == pytest.approx(softplus(-(0.2 - 0.1)), abs=1e-7)
    assert losses(length_penalty=0.1)[0] == pytest.approx(softplus(-(0.2 - 0.2)), abs=1e-7)     # 2 against 4 tokens
    assert losses(length_penalty=0.1)[1] == pytest.approx(softplus(-0.3), abs=1e-7)             # 4 against 1
    assert losses(loss="ipo")[0] == pytest.approx((0.5 + 0.25 - 5) ** 2)
    assert losses(loss="ipo_sum")[0] == pytest.approx((2 - 5) ** 2)
    assert losses(loss="simpo")[0] == pytest.approx(softplus(-(2 * (-2 + 2.25) - 1)), abs=1e-7)
    assert losses(loss="cpo")[0] == pytest.approx(softplus(-0.1 * (-4 + 9)), abs=1e-7)
    assert losses(loss="dpo_norm", beta=2.0)[0] == pytest.approx(softplus(-2 * (0.5 + 0.25)), abs=1e-7)
    assert losses(divergence="forward_kl")[0] == pytest.approx(softplus(-0.1 * (math.e - math.exp(-1))), abs=1e-7)


def test_rewards_are_what_the_policy_has_become_beside_its_reference():
    told = pair_metrics(LossConfig(beta=0.5), LOGP, REFERENCE, LENGTHS)
    assert told == {"rewards/chosen": 0.75, "rewards/rejected": -0.25, "rewards/margins": 1.0, "logps/chosen": -12.0,
                    "rewards/accuracies": 1.0, "logps/rejected": -14.0}         # a tie is not told apart
    free = pair_metrics(LossConfig(loss="simpo", beta=2.0), LOGP, torch.zeros(4), LENGTHS)
    assert (free["rewards/chosen"], free["rewards/rejected"]) == (2 * (-2 - 2), 2 * (-2.25 - 5))


# --- which tokens -------------------------------------------------------------------------------------------------

def test_the_tail_of_the_longer_answer_counts_as_much_as_asked_for():
    model, pair = Transformer(CONFIG, seed=1), Pair([1, 2, 3], [4, 5], [6, 7, 8, 9])
    batch = pair_batch([pair], torch.zeros(2))
    with torch.no_grad():
        each, rows = token_logps(model, batch)
        own = [each[batch.answer[rows] == i] for i in (0, 1)]
        for tail in (0.0, 0.25, 1.0):
            got = answer_logps(model, pair_batch([pair], torch.zeros(2), tail=tail))
            expected = own[0].sum(), own[1][:2].sum() + tail * own[1][2:].sum()
            torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=0)
            assert score_answers(model, [pair.prompt], [pair.answers], tail=tail)[0] == pytest.approx(got.tolist())


def test_the_nll_is_of_the_answer_or_of_its_prompt_too():
    model, pairs = Transformer(CONFIG, seed=1), [Pair([1, 2, 3], [4, 5], [6, 7, 8]), Pair([9], [1], [2, 3])]
    told = {}
    for nll_on in ("answer", "all"):
        batch = pair_batch(pairs, torch.zeros(4), prompts_count=nll_on == "all")
        whole, metrics = preference(LossConfig(loss="orpo", nll_on=nll_on))(model, batch)
        told[nll_on] = metrics["nll_loss"]
        without = preference(LossConfig(loss="orpo", nll=0.0))(model, pair_batch(pairs, torch.zeros(4)))[0]
        assert float((whole - without).detach()) == pytest.approx(told[nll_on], abs=1e-5)
    sums = [score_answers(model, [p], [[a]])[0][0] for p, a in (([1, 2, 3], [4, 5]), ([9], [1]), ([1], [2, 3]))]
    assert told["answer"] == pytest.approx(-sums[0] / 2 - sums[1], abs=1e-5)
    assert told["all"] == pytest.approx(-(sums[0] + sums[2]) / 4 - sums[1], abs=1e-5)


# --- batches ------------------------------------------------------------------------------------------------------

def test_a_reference_free_loss_does_not_look_at_one():
    other = REFERENCE - torch.tensor([3.0, 1.0, 0.0, 2.0])
    for loss in PAIRWISE:
        one, two = (pair_losses(LossConfig(loss=loss), LOGP, reference, LENGTHS, ZEROS, ONES).tolist()
                    for reference in (REFERENCE, other))
        assert (one == two) == (loss in REFERENCE_FREE), loss


def test_kto_s_figures_are_means_over_each_kind_of_a_step_however_it_is_split():
    model, items = Transformer(CONFIG, seed=1), some_ratings()
    objective, told = rating(LossConfig(loss="kto", kl_group=3)), []
    for micro_tokens in (1, 1000):
        sums: dict[str, float] = {}
        for batch in rated(items, torch.full((7, 2), -3.0), size=7, group=3, micro_tokens=micro_tokens, seed=0)(0):
            for name, value in objective(model, batch)[1].items():
                sums[name] = sums.get(name, 0.0) + value / 7
        told.append(sums)
    assert told[0] == pytest.approx(told[1], abs=1e-5)
    logps = torch.tensor(score_answers(model, [i.prompt for i in items], [[i.completion] for i in items]))[:, 0]
    wanted = torch.tensor([item.desirable for item in items])
    assert told[0]["logps/chosen"] == pytest.approx(float(logps[wanted].mean()), abs=1e-5)
    assert told[0]["logps/rejected"] == pytest.approx(float(logps[~wanted].mean()), abs=1e-5)
    assert told[0]["rewards/chosen"] == pytest.approx(0.1 * float((logps[wanted] + 3).mean()), abs=1e-5)


def test_one_kind_of_rating_alone_is_legal_and_has_no_margin():
    model, items = Transformer(CONFIG, seed=1), [item for item in some_ratings() if item.desirable]
    batch = rated(items, torch.zeros(4, 2), size=4, group=8, micro_tokens=1000, seed=0)(0)[0]
    told = rating(LossConfig(loss="kto"), cached)(model, batch)[1]
    assert "rewards/chosen" in told and not told.keys() & {"rewards/rejected", "rewards/margins"}


@pytest.mark.parametrize(("size", "groups"), [(2, [2]), (3, [3]), (4, [2, 2]), (5, [2, 3])])
def test_no_answer_is_alone_in_its_group(size, groups):
    batch = rated(some_ratings(), torch.zeros(7, 2), size=size, group=2, micro_tokens=10_000, seed=0)(0)[0]
    assert sorted(torch.bincount(batch.group).tolist()) == sorted(groups)
