"""Preference batches: scores do not depend on how pairs are batched, and what is dropped is counted."""

import math

import pytest
import torch

from bloomery.align.batches import pair_batch, paired
from bloomery.align.objectives import LossConfig, preference
from bloomery.align.pairs import Pair, render_pairs
from bloomery.align.reference import score_pairs
from bloomery.core.errors import InputError
from bloomery.core.records import Message, Preference
from bloomery.data.batch import forest, sequence
from bloomery.data.likelihood import token_logps
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import SMALLEST, train_tokenizer
from bloomery.train.loop import train_step
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import fresh

CONFIG = ModelConfig(vocabulary=40, context=64, depth=2, width=24, heads=4, kv_heads=2, head_width=6, hidden=32)


def some_pairs(count: int = 9) -> list[Pair]:
    generator = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> list[int]:
        n = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(0, 40, (n,), generator=generator).tolist()

    return [Pair(ids(1, 12), ids(1, 9), ids(1, 20)) for _ in range(count)]


def test_scores_are_sums_over_the_answer_of_the_whole_sequence():
    model, pairs = Transformer(CONFIG, seed=1, compute=torch.float64).double(), some_pairs()
    with torch.no_grad():
        expected = []
        for pair in pairs:
            for answer in pair.answers:
                ids = [*pair.prompt, *answer]
                trained = [False] * len(pair.prompt) + [True] * len(answer)
                expected.append(float(token_logps(model, forest([sequence(ids, trained)]))[0].sum()))
    for micro_tokens in (1, 60, 10_000):
        got = score_pairs(model, pairs, micro_tokens)
        torch.testing.assert_close(got.flatten().double(), torch.tensor(expected).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_is_the_same_however_pairs_are_batched(smoothing):
    pairs, gradients, losses = some_pairs(), [], []
    for micro_tokens in (10_000, 50):
        model = Transformer(CONFIG, seed=1)
        reference = score_pairs(Transformer(CONFIG, seed=2), pairs, 10_000)
        batches = paired(pairs, reference, size=9, micro_tokens=micro_tokens, seed=0)(0)
        assert (len(batches) > 1) == (micro_tokens == 50)
        state = fresh(model, OptimizerConfig(lr=1.0, warmup=0.0), steps=1)
        state.optimizers = [torch.optim.SGD(model.parameters())]
        before = [p.detach().clone() for p in model.parameters()]
        losses.append(train_step(state, batches, preference(LossConfig(beta=0.5, smoothing=smoothing)), None).metrics)
        gradients.append([b - p.detach() for b, p in zip(before, model.parameters(), strict=True)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_training_starts_at_ln_2_with_no_margin_and_then_prefers_the_chosen():
    pairs, model = some_pairs(), Transformer(CONFIG, seed=1)
    stream = paired(pairs, score_pairs(model, pairs, 1000), size=9, micro_tokens=1000, seed=0)
    state = fresh(model, OptimizerConfig(lr=1e-2, warmup=0.0), steps=12)
    dpo = preference(LossConfig())
    reports = [train_step(state, stream(step), dpo, 1.0).metrics for step in range(12)]
    assert reports[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert reports[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert reports[-1]["loss"] < 0.4 and reports[-1]["rewards/accuracies"] == 1.0
    assert reports[-1]["rewards/margins"] == \
        pytest.approx(reports[-1]["rewards/chosen"] - reports[-1]["rewards/rejected"], abs=1e-5)


def test_each_pair_keeps_its_own_reference():
    pairs = some_pairs(4)
    reference = torch.arange(8.0).view(4, 2)
    stream = paired(pairs, reference, size=4, micro_tokens=40, seed=3)
    for batch in stream(0) + stream(1):
        for number, value in enumerate(batch.reference.tolist()):
            pair = pairs[int(value) // 2]
            assert batch.targets[batch.answer == number].tolist() == pair.answers[int(value) % 2]


def test_what_cannot_be_used_is_dropped_and_counted():
    renderer = Renderer(train_tokenizer(["x"], vocabulary=SMALLEST))
    ask = (Message("user", "Is it?"),)
    rows = [Preference(ask, "yes", "no"), Preference(ask, "yes ", " yes"), Preference(ask, "yes", "no" * 100)]
    pairs, counts = render_pairs(rows, renderer, 60, where="rows.jsonl")
    assert counts == {"pairs": 1, "dropped/too_long": 1, "dropped/equal_answers": 1, "dropped/empty_answers": 0}
    assert len(pairs) == 1
    assert pairs[0].chosen == renderer.answer("yes") and pairs[0].prompt == renderer.prompt(ask)
    with pytest.raises(InputError, match="no preference pair is left") as caught:
        render_pairs(rows[1:], renderer, 60, where="rows.jsonl")
    assert "1 are longer" in caught.value.why and "1 have equal answers" in caught.value.why


def test_a_batch_of_pairs_is_numbered_chosen_first():
    batch = pair_batch([Pair([1, 2], [3], [4, 5]), Pair([6], [7, 8], [9])], torch.arange(4.0))
    answers = [batch.targets[batch.answer == i].tolist() for i in range(4)]
    assert answers == [[3], [4, 5], [7, 8], [9]] and batch.count == 2.0
