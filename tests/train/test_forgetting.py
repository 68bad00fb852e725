"""What is added to a loss against forgetting: the same step for any split, and each term what its equation says."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from bloomery.core.errors import ConfigError, InputError
from bloomery.data.batch import Run, forest, sequence
from bloomery.losses import linear_ce
from bloomery.model.adapt import AdaptConfig, adapt
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest
from bloomery.model.transformer import Transformer
from bloomery.train import retention
from bloomery.train.loop import train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.retention import ANCHOR, FISHER, AuxiliaryConfig, EwcConfig, KlConfig, RetentionConfig, retain
from bloomery.train.state import fresh

CONFIG = ModelConfig(vocabulary=300, context=32, depth=1, width=16, heads=2, kv_heads=1, head_width=8, hidden=24)


def runs() -> list[Run]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for n in (5, 30, 9, 14, 3, 21):
        ids = torch.randint(0, 300, (n,), generator=generator).tolist()
        made.append(sequence(ids, [j >= n // 2 for j in range(n)]))
    return made


RUNS = runs()


def moved(model: Transformer, seed: int = 1) -> Transformer:
    """The model some way from where it was."""
    generator = torch.Generator().manual_seed(seed)
    made = copy.deepcopy(model)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return made


@pytest.fixture
def fisher(tmp_path):
    """A Fisher of random numbers with the start weights as its anchor."""
    model, generator = Transformer(CONFIG, seed=0), torch.Generator().manual_seed(2)
    save_file({n: torch.rand(p.shape, generator=generator) for n, p in model.named_parameters()}, tmp_path / FISHER)
    save_file({n: p.detach().clone() for n, p in model.named_parameters()}, tmp_path / ANCHOR)
    return tmp_path


def gradient(config: RetentionConfig, sizes: list[int], **options) -> tuple[dict, dict]:
    """Metrics and gradient of one step of plain descent, some way from the start model, in micro-batches of `sizes`."""
    start = Transformer(CONFIG, seed=0)
    kept = retain(config, start, **options)
    state = fresh(moved(start), OptimizerConfig(lr=1.0, warmup=0.0), steps=10)
    state.optimizers, state.penalty = [torch.optim.SGD(state.model.parameters())], kept.penalty
    before = copy.deepcopy(state.model.state_dict())
    cuts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    stream = kept.stream(lambda step: [forest(RUNS[a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)])
    report = train_step(state, stream(0), kept.objective, None)
    return report.metrics, {name: before[name] - w for name, w in state.model.state_dict().items()}


def everything(fisher, corpus) -> RetentionConfig:
    return RetentionConfig(label_smoothing=0.1, ewc=EwcConfig(fisher=str(fisher), weight=0.3), kl=KlConfig(weight=0.5),
                           lm=AuxiliaryConfig(weight=0.7, data=str(corpus), rows=3))


@pytest.mark.parametrize("split", [[1] * 6, [5, 1], [2, 2, 2]])
def test_any_split_into_micro_batches_gives_the_same_step(split, fisher, corpus):
    """A penalty added once a micro-batch, or a mean of means, would be far off."""
    config = everything(fisher, corpus)
    (whole, expected), (parts, got) = gradient(config, [6]), gradient(config, split, micro_tokens=32)
    assert {"loss", "kl", "ewc", "lm_loss"} <= set(whole)
    for name in whole:
        assert parts[name] == pytest.approx(whole[name], abs=2e-5), name
    for name, g in expected.items():
        torch.testing.assert_close(got[name], g, atol=3e-6, rtol=0)


def test_each_term_adds_its_own_gradient(fisher, corpus):
    """Gradients are linear: what all terms do together is the sum of what each does alone."""
    config = everything(fisher, corpus).model_copy(update={"label_smoothing": 0.0})
    plain = gradient(RetentionConfig(), [6])[1]
    alone = [gradient(RetentionConfig(**{name: getattr(config, name)}), [6])[1] for name in ("ewc", "kl", "lm")]
    together = gradient(config, [6])[1]
    for name, base in plain.items():
        parts = [each[name] - base for each in alone]
        assert all(float(part.abs().max()) > 1e-4 for part in parts)
        torch.testing.assert_close(together[name], base + sum(parts), atol=3e-6, rtol=0)


def test_without_options_nothing_changes():
    kept = retain(RetentionConfig(), Transformer(CONFIG, seed=0))
    model, batch = Transformer(CONFIG, seed=1), forest(RUNS)
    (found, metrics), (expected, known) = kept.objective(model, batch), causal_lm(model, batch)
    stream = partial(lambda step: [batch])
    assert torch.equal(found, expected) and metrics == known
    assert kept.penalty is None and kept.stream(stream) is stream and kept.measure(model) == {}


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_in_blocks_is_kl_of_all_logits(direction, monkeypatch):
    monkeypatch.setitem(retention.LIMITS, "cpu", linear_ce.Limits(1, 1, 1))
    monkeypatch.setattr(linear_ce, "LEAST", 8)
    reference, batch = Transformer(CONFIG, seed=0), forest(RUNS)
    model = moved(reference)
    rows = batch.weights.nonzero()[:, 0]
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))[rows]
    assert len(rows) > 16                                       # several blocks, the last one short
    total, metrics = retention.kl_to(reference, weight=2.0, direction=direction)(model, batch, hidden, rows)

    one = model.logits(model(batch.ids, batch.positions, Forest(batch.segments))[rows]).log_softmax(-1)
    two = reference.logits(reference(batch.ids, batch.positions, Forest(batch.segments))[rows]).log_softmax(-1).detach()
    p, q = (two, one) if direction == "forward" else (one, two)
    expected = (p.exp() * (p - q)).sum()
    assert metrics["kl"] == pytest.approx(float(expected.detach()), rel=1e-5) and metrics["kl"] > 0.1
    found, wanted = (torch.autograd.grad(x, [*model.parameters()]) for x in (total, 2 * expected))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_reference_stays_when_the_model_is_trained(compute):
    """It computes as the model does: another precision would be a divergence of its own."""
    model, batch = Transformer(CONFIG, seed=0), forest(RUNS)
    kept = retain(RetentionConfig(kl=KlConfig(weight=1.0)), model)
    model.compute = compute
    state = fresh(model, OptimizerConfig(lr=1e-2, warmup=0.0), steps=10)
    found = [train_step(state, [batch], kept.objective, 1.0).metrics["kl"] for _ in range(4)]
    assert found[0] == pytest.approx(0, abs=1e-6) and found[-1] > 1e-3


def test_a_frozen_reference_is_no_copy():
    model = Transformer(CONFIG, seed=0)
    shared, own = retention.reference(model, frozen=True), retention.reference(model)
    assert shared.blocks is not model.blocks
    assert all(a is b for a, b in zip(shared.parameters(), model.parameters(), strict=True))
    assert not {p.data_ptr() for p in own.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_adapters_learn_beside_a_reference_that_shares_their_frozen_weights():
    model, batch = Transformer(CONFIG, seed=0), forest(RUNS)
    kept = retain(RetentionConfig(kl=KlConfig(weight=0.1)), model, frozen=True)
    base = [(p, p.detach().clone()) for p in model.parameters()]
    adapt(model, AdaptConfig(method="lora", rank=2), seed=0)
    state = fresh(model, OptimizerConfig(lr=1e-2, warmup=0.0), steps=10)
    found = [train_step(state, [batch], kept.objective, 1.0).metrics for _ in range(5)]
    assert found[0]["kl"] == pytest.approx(0, abs=1e-6) and found[-1]["kl"] > 1e-4
    assert found[-1]["loss"] < found[0]["loss"]
    assert all(torch.equal(p, before) for p, before in base)


def test_the_penalty_is_its_equation(fisher):
    metrics, found = gradient(RetentionConfig(ewc=EwcConfig(fisher=str(fisher), weight=0.3)), [6])
    plain = gradient(RetentionConfig(), [6])[1]
    start = Transformer(CONFIG, seed=0)
    weights, kept = dict(moved(start).named_parameters()), retention.Ewc(fisher, start, 0.3)
    value = sum(0.15 * (kept.fisher[n] * (weights[n] - p) ** 2).sum() for n, p in start.named_parameters())
    assert metrics["ewc"] == pytest.approx(float(value.detach()), rel=1e-5)
    for name, g in zip(weights, torch.autograd.grad(value, [*weights.values()]), strict=True):
        torch.testing.assert_close(found[name] - plain[name], g, atol=1e-6, rtol=1e-4)


def test_the_language_model_is_a_mean_over_its_own_tokens(corpus):
    """task + lambda * mean nll, of the corpus or of all tokens of the step's own examples."""
    model = moved(Transformer(CONFIG, seed=0))
    task, everything = forest(RUNS), [replace(run, weights=[1.0] * len(run.ids)) for run in RUNS]
    _, plain = gradient(RetentionConfig(), [6])
    loss, metrics = causal_lm(model, forest(everything))
    mean = loss / sum(len(run.ids) for run in RUNS)
    told, found = gradient(RetentionConfig(lm=AuxiliaryConfig(weight=0.5)), [2, 4])
    assert told["lm_loss"] == pytest.approx(float(mean.detach()), rel=1e-5)
    assert told["loss"] == pytest.approx(causal_lm(model, task)[1]["loss"] / task.count, rel=1e-5)
    for (name, _), g in zip(model.named_parameters(), torch.autograd.grad(0.5 * mean, [*model.parameters()]),
                            strict=True):
        torch.testing.assert_close(found[name] - plain[name], g, atol=2e-6, rtol=0)
    read = gradient(RetentionConfig(lm=AuxiliaryConfig(weight=0.5, data=str(corpus), rows=2)), [6])[0]
    assert 4 < read["lm_loss"] < 9 and read["lm_loss"] != told["lm_loss"]


def test_the_corpus_is_measured(corpus):
    kept = retain(RetentionConfig(corpus=str(corpus), corpus_tokens=400), Transformer(CONFIG, seed=0))
    found = kept.measure(Transformer(CONFIG, seed=0))
    assert set(found) == {"base_loss", "base_bpb"} and 5 < found["base_loss"] < 7 and found["base_bpb"] > 1


def test_what_does_not_fit_is_refused(fisher, corpus, tmp_path):
    other = Transformer(CONFIG.model_copy(update={"hidden": 16, "vocabulary": 200}), seed=0)
    with pytest.raises(InputError, match="not of this model") as caught:
        retain(RetentionConfig(ewc=EwcConfig(fisher=str(fisher))), other)
    assert "head.weight" in caught.value.why
    with pytest.raises(InputError, match="not of this model"):
        retain(RetentionConfig(ewc=EwcConfig(fisher=str(corpus))), Transformer(CONFIG, seed=0))
    with pytest.raises(ConfigError, match="frozen"):
        retain(RetentionConfig(ewc=EwcConfig(fisher=str(fisher))), Transformer(CONFIG, seed=0), frozen=True)
    for asked in ({"corpus": str(corpus)}, {"lm": {"data": str(corpus)}}):
        with pytest.raises(InputError, match="do not belong together"):
            retain(RetentionConfig(**asked), other)
