"""Forgetting activations changes no bit, and what the plan says is kept is what autograd keeps."""

import pytest
import torch

from bloomery.data.batch import Batch, rectangle
from bloomery.model.adapt import AdaptConfig, adapt
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest
from bloomery.model.linear import Linear
from bloomery.model.presets import sized
from bloomery.model.transformer import Transformer
from bloomery.train.memory import adapted, checkpointed, flops_per_token, kept_per_token, plan
from bloomery.train.objective import causal_lm

CONFIG = sized(2, vocabulary=300, context=128, width=128)
DTYPES = [torch.float32, torch.bfloat16]


def batch(rows: int = 2, tokens: int = 128) -> Batch:
    return rectangle(torch.randint(0, 300, (rows, tokens + 1), generator=torch.Generator().manual_seed(rows)))


def gradients(model: Transformer, batch: Batch) -> list[torch.Tensor]:
    model.zero_grad()
    causal_lm(model, batch)[0].backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("compute", DTYPES)
@pytest.mark.parametrize("how", ["selective", "full"])
def test_gradients_keep_their_bits(compute, how):
    model = Transformer(CONFIG, compute=compute)
    for data in (batch(), batch(3, 50)):
        plain = gradients(model, data)
        again = gradients(checkpointed(model, how), data)
        assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
        checkpointed(model, "none")
    assert all("forward" not in block.__dict__ for block in model.blocks)


def kept_bytes(config: ModelConfig, compute: torch.dtype, how: str) -> float:
    """What autograd keeps of a block, a token, shared storage counted once: a second block's share of two."""
    held = []
    for depth in (1, 2):
        model = Transformer(config.model_copy(update={"depth": depth}), compute=compute)
        data, seen = batch(4), {}
        checkpointed(model, how)
        causal_lm(model, data)                                  # makes the shadows, which are no activations
        shadows = [m.compute_weight(compute) for m in model.modules() if isinstance(m, Linear)]
        weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *shadows)}

        def pack(tensor, seen=seen, weights=weights):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = model(data.ids, data.positions, Forest(data.segments))
        held.append(sum(seen.values()) / len(hidden))
    return held[1] - held[0]


@pytest.mark.parametrize("compute", DTYPES)
@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}, {"norm_order": "sandwich"}, {"kv_heads": 1, "heads": 4,
                                                                                            "head_width": 32}])
def test_the_plan_knows_what_a_block_keeps(compute, options):
    config = CONFIG.model_copy(update=options)
    assert kept_per_token(config, compute)["none"] == pytest.approx(kept_bytes(config, compute, "none"), rel=0.1)


@pytest.mark.parametrize("compute", DTYPES)
def test_a_block_that_forgets_everything_keeps_its_input(compute):
    assert kept_bytes(CONFIG, compute, "full") == pytest.approx(kept_per_token(CONFIG, compute)["full"], rel=0.05)


def test_plans_order_as_they_should():
    totals = [plan(CONFIG, tokens=8192, checkpointing=how).activations for how in ("none", "selective", "full")]
    assert totals[0] > 1.5 * totals[1] > 3 * totals[2]
    moments = [plan(CONFIG, tokens=8, optimizer=name).moments for name in ("adamw", "muon", "sgd", "adamw8bit")]
    assert moments == sorted(moments, reverse=True) and moments[0] == 8 * CONFIG.parameters()
    assert "activations" in str(plan(CONFIG, tokens=8192)) and "GB" in str(plan(CONFIG, tokens=8192))


@pytest.mark.parametrize("compute", DTYPES)
def test_what_is_frozen_needs_no_gradient_no_moments_and_no_work(compute):
    whole = Transformer(CONFIG, compute=compute)
    assert adapted(whole) is None and flops_per_token(whole) == CONFIG.flops_per_token()
    made = {method: adapt(Transformer(CONFIG, compute=compute), AdaptConfig(method=method, rank=2), control=(1, 2))
            for method in ("lora", "qlora", "prefix")}
    plans = {method: plan(CONFIG, tokens=64, compute=compute, adapted=adapted(model))
             for method, model in made.items()}
    before = plan(CONFIG, tokens=64, compute=compute)
    for method, model in made.items():
        learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert plans[method].gradients == 4 * learned and plans[method].moments == 8 * learned
        own, a_token = CONFIG.parameters() - CONFIG.tables(), 0 if method == "prefix" else learned
        assert flops_per_token(model) == model.config.flops_per_token() - 2 * own + 6 * a_token
    assert plans["qlora"].weights < 0.5 * plans["lora"].weights and plans["lora"].total < before.total


@pytest.mark.parametrize("compute", DTYPES)
@pytest.mark.parametrize("method", ["lora", "qlora", "adapter"])
def test_the_plan_counts_what_an_adapted_model_holds(method, compute):
    model = adapt(Transformer(CONFIG, compute=compute), AdaptConfig(method=method, rank=2), control=(1, 2))
    causal_lm(model, batch())[0].backward()
    held = {}
    for module in model.modules():
        made = [getattr(module, name, None) for name in ("_folded", "_whole", "_shadow")]
        for tensor in (*module.parameters(), *module.buffers(), *(t for t in made if t is not None)):
            held[tensor.data_ptr()] = tensor.nbytes
    assert adapted(model).bytes_ == pytest.approx(sum(held.values()), rel=0.02)
