"""A forest says what separate padded sequences say, in values and gradients, of every loss, with all that may learn."""

import pytest
import torch
from preference_data import CONFIG, padded_logps, some_pairs, some_ratings

from bloomery.align.batches import paired, rated
from bloomery.align.objectives import LossConfig, pair_losses, preference, rating, rating_losses
from bloomery.data import likelihood
from bloomery.data.stream import samples
from bloomery.losses.preference import PAIRWISE
from bloomery.model.adapt import AdaptConfig, adapt, trained_weights
from bloomery.model.flex import block_mask, flex
from bloomery.model.forest import DenseForest, Forest
from bloomery.model.transformer import Transformer

METHODS = ("full", "lora", "adapter", "prefix", "ia3")
EXACT = {torch.float64: 1e-9, torch.float32: 1e-5}


class FlexForest(Forest):
    """FlexAttention as a GPU runs it, without its kernels: eager, and only forward."""

    def attend(self, layer, q, k, v, scoring):
        return flex(q, k, v, block_mask(self.segments.paths, scoring.window, q.device), scoring)


def model_of(method: str, dtype: torch.dtype, seed: int = 1) -> Transformer:
    """A model of which `method` learns, with what it adds away from its beginning."""
    model = adapt(Transformer(CONFIG, seed=seed, compute=dtype).to(dtype), AdaptConfig(method=method, rank=3))
    generator = torch.Generator().manual_seed(5)
    if method != "full":
        model.to(dtype)
        for weight in trained_weights(model).values():
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(dtype)
    return model


def gradients(model: Transformer, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(trained_weights(model).values())))


def same(model: Transformer, got: torch.Tensor, wanted: torch.Tensor, atol: float) -> bool:
    """A mean over the batch, as a step has it, and its gradients."""
    pairs = [(got, wanted), *zip(gradients(model, got), gradients(model, wanted), strict=True)]
    return all(torch.allclose(ours, theirs, atol=atol, rtol=atol) for ours, theirs in pairs)


def both_ways(model: Transformer, config: LossConfig, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss of some pairs by forests in several micro-batches, and by a padded rectangle."""
    pairs = some_pairs(soft=True)
    with torch.no_grad():
        reference = padded_logps(Transformer(CONFIG, seed=2, compute=dtype).to(dtype), pairs)
    batches = paired(pairs, reference.view(-1, 2), size=9, micro_tokens=60, seed=0)(0)
    assert len(batches) > 2
    got = sum(preference(config)(model, batch)[0] for batch in batches) / 9
    lengths = torch.tensor([len(answer) for pair in pairs for answer in pair.answers])
    margin, share = (torch.tensor([getattr(p, name) for p in pairs]) for name in ("margin", "share"))
    logp = padded_logps(model, pairs)
    losses = pair_losses(config, logp, reference, lengths, margin, share)
    return got, (losses + config.nll * -(logp / lengths)[0::2]).mean()


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_dpo_of_a_forest_is_that_of_padded_sequences(method, dtype):
    model = model_of(method, dtype)
    assert same(model, *both_ways(model, LossConfig(nll=0.3), dtype), EXACT[dtype])


@pytest.mark.parametrize("loss", PAIRWISE)
def test_every_pairwise_loss_of_a_forest_is_that_of_padded_sequences(loss):
    model = model_of("lora", torch.float64)
    assert same(model, *both_ways(model, LossConfig(loss=loss, beta=0.3), torch.float64), 1e-9)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("micro_tokens", [1, 10_000])
def test_kto_of_a_forest_is_that_of_padded_sequences(method, dtype, micro_tokens):
    """The estimate of the KL is a group's, wherever the group lies; three and four answers make two of them."""
    model, items = model_of(method, dtype), some_ratings()
    config = LossConfig(loss="kto", beta=0.3, kl_group=3, undesirable_weight=1.5)
    with torch.no_grad():
        reference = padded_logps(Transformer(CONFIG, seed=2, compute=dtype).to(dtype), items).view(-1, 2)
    batches = rated(items, reference, size=7, group=3, micro_tokens=micro_tokens, seed=0)(0)
    assert len(batches) == (2 if micro_tokens == 1 else 1)
    got = sum(rating(config)(model, batch)[0] for batch in batches) / 7
    order = samples(0, 7, 7, 0)
    h, drift = (padded_logps(model, items).view(-1, 2) - reference)[order].unbind(1)
    desirable = torch.tensor([items[i].desirable for i in order])
    losses, _ = rating_losses(config, h, drift, desirable, torch.tensor([0, 0, 0, 1, 1, 1, 1]))
    assert same(model, got, losses.mean(), EXACT[dtype])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize(("backend", "atol"), [(DenseForest, 1e-6), (FlexForest, 1e-5)])
@torch.no_grad()
def test_other_ways_of_attending_give_the_same_log_probabilities(backend, atol, monkeypatch):
    model, pairs = model_of("lora", torch.float32), some_pairs()
    monkeypatch.setattr(likelihood, "Forest", backend)
    batch = paired(pairs, torch.zeros(9, 2), size=9, micro_tokens=1000, seed=0)(0)[0]
    got = likelihood.answer_logps(model, batch)
    monkeypatch.setattr(likelihood, "Forest", Forest)
    torch.testing.assert_close(got, likelihood.answer_logps(model, batch), atol=atol, rtol=1e-5)


def test_the_oracle_s_attention_gives_the_same_gradients(monkeypatch):
    model, pairs = model_of("full", torch.float64), some_pairs()
    batch = paired(pairs, torch.zeros(9, 2), size=9, micro_tokens=1000, seed=0)(0)[0]
    fast = preference(LossConfig())(model, batch)[0]
    monkeypatch.setattr(likelihood, "Forest", DenseForest)
    assert same(model, preference(LossConfig())(model, batch)[0], fast, 1e-9)


def test_low_precision_is_near():
    """bf16 takes the blocked kernel and low-precision products: the same loss to its own accuracy."""
    model, low = model_of("full", torch.float32), model_of("full", torch.float32)
    low.compute = torch.bfloat16
    batch = paired(some_pairs(), torch.zeros(9, 2), size=9, micro_tokens=1000, seed=0)(0)[0]
    with torch.no_grad():
        fine, rough = (preference(LossConfig())(each, batch)[0] / 9 for each in (model, low))
    assert float(fine) == pytest.approx(float(rough), rel=0.02) and float(fine) != float(rough)
