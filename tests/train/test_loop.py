"""One optimizer step is the same however its data is split, and a loss that is not finite changes nothing."""

import copy

import pytest
import torch

from bloomery.data.batch import Run, forest, rectangle, sequence
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train.loop import fit, train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import State, fresh

CONFIG = ModelConfig(vocabulary=40, context=64, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)


def state_of(*, steps: int = 10, seed: int = 0, **options) -> State:
    return fresh(Transformer(CONFIG, seed=seed), OptimizerConfig(**{"lr": 1e-2, "warmup": 0.0} | options), steps=steps)


def conversations() -> list[Run]:
    """Twelve sequences of unequal length of which unequal shares are trained, one of them hardly at all."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i, n in enumerate([5, 30, 9, 14, 2, 21, 8, 8, 40, 3, 17, 6]):
        ids = torch.randint(0, 40, (n,), generator=generator).tolist()
        trained = [False] * (n - 1) + [True] if i == 8 else [(j * (i + 2)) % 3 > 0 for j in range(n - 1)] + [True]
        made.append(sequence(ids, trained))
    return made


@pytest.mark.parametrize("split", [[1] * 12, [5, 7], [3, 3, 3, 3], [11, 1]])
def test_any_split_into_micro_batches_gives_the_same_step(split):
    """Sums are divided once by all trained tokens: a mean of means would be far off with such unequal counts.

    Plain descent with rate 1 shows the gradient itself; Adam's first step would show no more than its sign.
    """
    runs, outcomes = conversations(), []
    for sizes in ([12], split):
        state = state_of(lr=1.0)
        state.optimizers = [torch.optim.SGD(state.model.parameters())]
        before = copy.deepcopy(state.model.state_dict())
        cuts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        batches = [forest(runs[a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        report = train_step(state, batches, causal_lm, None)
        outcomes.append((report, {name: before[name] - w for name, w in state.model.state_dict().items()}))
    (whole, expected), (parts, got) = outcomes
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-6)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, abs=1e-6)
    assert parts.tokens == whole.tokens == sum(len(run.ids) for run in runs)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-6, rtol=0)


def test_the_loss_is_the_mean_over_all_trained_tokens():
    runs = conversations()
    model = Transformer(CONFIG, seed=0)
    alone = [causal_lm(model, forest([run]))[1]["loss"] for run in runs]
    report = train_step(state_of(), [forest(runs[:4]), forest(runs[4:])], causal_lm, 1.0)
    assert report.metrics["loss"] == pytest.approx(sum(alone) / sum(sum(run.weights) for run in runs), abs=1e-6)


def test_weights_scale_what_is_learned():
    """A batch whose weights are all doubled has twice the loss sum and twice the count: the same step."""
    runs = conversations()
    doubled = [Run(r.ids, r.targets, [2 * w for w in r.weights]) for r in runs]
    one, two = (train_step(state_of(), [forest(x)], causal_lm, 1.0) for x in (runs, doubled))
    assert one.metrics["loss"] == pytest.approx(two.metrics["loss"], abs=1e-6)
    assert one.grad_norm == pytest.approx(two.grad_norm, abs=1e-6)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_weights_change(where):
    def broken(model, batch):
        loss, metrics = causal_lm(model, batch)
        if where == "loss":
            return loss * float("nan"), {"loss": float("nan")}
        loss.register_hook(lambda g: g * float("inf"))
        return loss, metrics

    state = state_of()
    before = copy.deepcopy(state.model.state_dict())
    with pytest.raises(FloatingPointError, match="nan|inf"):
        train_step(state, [forest(conversations())], broken, 1.0)
    assert state.step == 0 and not state.optimizers[0].state
    assert all(torch.equal(w, before[name]) for name, w in state.model.state_dict().items())


def test_training_learns_and_follows_its_schedule():
    rows = torch.arange(40).repeat(2)[None, :41]                # one sequence to be learned by heart
    state = state_of(steps=30)
    reports = []
    assert fit(state, lambda step: [rectangle(rows)], causal_lm, [lambda s, r: reports.append(r)]) is None
    assert state.step == 30 and state.tokens == 30 * 40
    assert reports[0].metrics["loss"] == pytest.approx(3.69, abs=0.1) and reports[-1].metrics["loss"] < 1
    assert reports[0].learning_rate == pytest.approx(1e-2) and 1e-3 <= reports[-1].learning_rate < 2e-3


def test_a_hook_s_reason_ends_training_after_its_step():
    state, rows = state_of(), torch.arange(10)[None]
    asked = []

    def stop(state, report):
        asked.append(state.step)
        return "enough" if state.step == 3 else None

    assert fit(state, lambda step: [rectangle(rows)], causal_lm, [stop]) == "enough"
    assert state.step == 3 and asked == [1, 2, 3]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_the_gradient_of_a_step_is_a_tree_of_halves(count):
    """Bit for bit, so that two processes that hold half of it each can add the same."""
    generator = torch.Generator().manual_seed(count)
    batches = [rectangle(torch.randint(0, 40, (2, 9), generator=generator)) for _ in range(count)]

    def alone(i: int) -> list[torch.Tensor]:
        model = Transformer(CONFIG, seed=0)
        (causal_lm(model, batches[i])[0] / 7).backward()
        return [p.grad for p in model.parameters()]

    def tree(first: int, end: int) -> list[torch.Tensor]:
        if end - first == 1:
            return alone(first)
        middle = (first + end + 1) // 2
        return [a + b for a, b in zip(tree(first, middle), tree(middle, end), strict=True)]

    state = state_of()
    state.ranks.backward(range(count), lambda i: (causal_lm(state.model, batches[i])[0] / 7).backward(), count)
    assert all(torch.equal(p.grad, g) for p, g in zip(state.model.parameters(), tree(0, count), strict=True))


def test_a_rank_builds_only_its_own_micro_batches():
    class Counted(list):
        asked: set[int] = set()

        def __getitem__(self, i):
            self.asked.add(i)
            return super().__getitem__(i)

    batches = Counted([rectangle(torch.arange(10)[None])] * 5)
    state = state_of()
    state.ranks.share = lambda count: range(3, count)
    train_step(state, batches, causal_lm, 1.0)
    assert batches.asked == {3, 4}
