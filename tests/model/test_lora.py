"""LoRA: what is folded is what the branch says, gradients are autograd's, and the base stays what it was."""

import pytest
import torch

from bloomery.core.errors import ConfigError, InputError
from bloomery.generate.decode import complete
from bloomery.generate.engine import Engine
from bloomery.generate.request import Request
from bloomery.model.adapt import merge, unmerge
from bloomery.model.config import ModelConfig
from bloomery.model.forest import Forest, roots
from bloomery.model.linear import Linear
from bloomery.model.lora import LoraConfig, attach, lora_layers, lora_weights, matrices, set_adapter, unfolded, using
from bloomery.model.nf4 import quantise
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=40, context=24, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9])


def learned(config: ModelConfig = CONFIG, *, compute: torch.dtype = torch.float32, options: dict | None = None,
            seed: int = 0) -> Transformer:
    """A model with large weights and an adapter that has learned something."""
    model = Transformer(config, seed=seed, compute=compute).to(torch.float64 if compute == torch.float64 else None)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)
    attach(model, LoraConfig(rank=4, alpha=8, **(options or {})), seed=1)
    stir(model, "default")
    return model


@torch.no_grad()
def stir(model: Transformer, name: str, seed: int = 2) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in lora_weights(model, name):
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


def hidden(model: Transformer) -> torch.Tensor:
    return model(IDS, torch.arange(len(IDS)), Forest(roots([9, len(IDS) - 9])))


def gradients(model: Transformer) -> list[torch.Tensor]:
    weights = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(model.logits(hidden(model)).square().sum(), weights)


def test_an_adapter_that_has_not_learned_changes_nothing():
    plain, adapted = (Transformer(CONFIG, seed=0) for _ in range(2))
    attach(adapted, LoraConfig(rank=4), seed=0)
    assert torch.equal(hidden(plain), hidden(adapted))
    assert all(p.requires_grad == ("default_" in name) for name, p in adapted.named_parameters())


@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"targets": ("q_proj", "v_proj", "down_proj")},
                                     {"targets": ("up_proj",)}])
def test_folded_and_as_a_branch_are_one_function_with_one_gradient(options):
    model = learned(compute=torch.float64, options=options)
    folded, slopes = hidden(model), gradients(model)
    with unfolded(model):
        torch.testing.assert_close(folded, hidden(model), atol=1e-10, rtol=1e-10)
        for ours, autograds in zip(slopes, gradients(model), strict=True):
            torch.testing.assert_close(ours, autograds, atol=1e-8, rtol=1e-8)
    with using(model, None):
        assert (folded - hidden(model)).abs().max() > 0.1


def test_siblings_learn_apart_though_they_are_one_layer():
    """The rows of k alone move when only k's adapter has learned."""
    model = Transformer(CONFIG, seed=0)
    attach(model, LoraConfig(rank=4, targets=("k_proj", "v_proj")), seed=0)
    layer = lora_layers(model)["blocks.0.attention.qkv"]
    with torch.no_grad():
        layer.adapter("default").b[0].fill_(0.1)
    moved = (layer.compute_weight(torch.float32) != layer.weight).any(1)
    assert moved.tolist() == [False] * 32 + [True] * 16 + [False] * 16
    assert layer.adapter("default").a.shape == (8, 32) and [b.shape[0] for b in layer.adapter("default").b] == [16, 16]


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_a_merged_model_computes_the_same_bits_and_unmerging_gives_the_base_back(compute):
    model = learned(compute=compute)
    merged, before = merge(model), {name: p.clone() for name, p in model.named_parameters()}
    assert type(merged.blocks[0].attention.qkv) is Linear and not lora_layers(merged)
    assert torch.equal(hidden(merged), hidden(model))
    assert merged.config == model.config and merged.head.weight is model.head.weight
    unmerge(merged, model)
    for name, weight in merged.named_parameters():
        ulp = torch.finfo(weight.dtype).eps * before[name].abs().max()
        assert (weight - before[name]).abs().max() <= ulp
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_merge_is_renewed_in_place():
    model = learned()
    merged = merge(model)
    stamp = merged.blocks[0].mlp.down.weight._version
    stir(model, "default", seed=5)
    assert not torch.equal(hidden(merged), hidden(model))
    assert merge(model, into=merged) is merged and torch.equal(hidden(merged), hidden(model))
    assert merged.blocks[0].mlp.down.weight._version > stamp                    # which packed weights look at


def test_several_adapters_share_one_base():
    model = learned()
    first = hidden(model)
    attach(model, LoraConfig(rank=2, targets=("o_proj",)), seed=3, name="second")
    stir(model, "second")
    second = hidden(model)
    with using(model, "default"):
        assert torch.equal(hidden(model), first)
        with using(model, None):
            assert torch.equal(hidden(model), hidden(merge_of_none()))
    assert torch.equal(hidden(model), second) and not torch.equal(first, second)
    set_adapter(model, "default")
    assert torch.equal(hidden(model), first)
    with pytest.raises(InputError, match="no adapter third"):
        set_adapter(model, "third")
    with pytest.raises(InputError, match="cannot be called 'second'"):
        attach(model, LoraConfig(rank=2, targets=("o_proj",)), seed=3, name="second")


def merge_of_none() -> Transformer:
    model = learned()
    set_adapter(model, None)
    return merge(model)


def test_gradients_in_bfloat16_are_those_of_fp32_but_for_rounding():
    exact, rounded = learned(), learned(compute=torch.bfloat16)
    for ours, theirs in zip(gradients(rounded), gradients(exact), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_weights_that_change_are_folded_again_and_only_then():
    model = learned(compute=torch.bfloat16)
    layer = lora_layers(model)["blocks.1.mlp.down"]
    first = layer.compute_weight(torch.bfloat16)
    assert layer.compute_weight(torch.bfloat16) is first
    stir(model, "default", seed=6)
    assert not torch.equal(layer.compute_weight(torch.bfloat16), first)


def test_a_change_between_forward_and_backward_is_refused():
    model = learned()
    loss = hidden(model).sum()
    stir(model, "default")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_dropout_acts_in_training_only_and_follows_the_seed():
    model = learned(options={"dropout": 0.5})
    with torch.no_grad():
        quiet = hidden(model)
        assert torch.equal(quiet, hidden(merge(model)))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(hidden(model).detach())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], quiet)
    assert torch.allclose(hidden(model.eval()), quiet, atol=1e-4)


def test_four_bit_bases_have_the_branch_beside_them():
    config = CONFIG.model_copy(update={"width": 64, "biases": "qkv"})
    plain = quantise(Transformer(config, seed=0))
    base = hidden(plain).detach()
    model = attach(quantise(Transformer(config, seed=0)), LoraConfig(rank=4), seed=0)
    assert torch.equal(hidden(model), base)
    stir(model, "default")
    assert not torch.equal(hidden(model), base)
    torch.testing.assert_close(hidden(merge(model)), hidden(model), atol=1e-5, rtol=1e-5)
    assert all(g.abs().sum() > 0 for g in gradients(model))


@pytest.mark.parametrize("base", ["plain", "four bits"])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_an_engine_decodes_with_the_adapter(compute, base):
    model = learned(compute=compute)
    if base == "four bits":
        model = Transformer(CONFIG.model_copy(update={"width": 64}), seed=0, compute=compute)
        attach(quantise(model), LoraConfig(rank=4, alpha=64), seed=1)
        stir(model, "default")
    prompts = [[1, 2, 3], [7], [4, 4, 4, 9]]
    merged = [done.ids for done in complete(merge(model), prompts, ends=set(), max_tokens=8)]
    adapted = [done.ids for done in complete(model, prompts, ends=set(), max_tokens=8)]
    set_adapter(model, None)
    alone = [done.ids for done in complete(model, prompts, ends=set(), max_tokens=8)]
    assert adapted == merged and adapted != alone


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_an_engine_follows_a_merge_that_is_renewed(compute):
    """Rollouts: one plain twin, renewed after every step."""
    model = learned(compute=compute)
    plain = merge(model)
    engine = Engine(plain, slots=2)

    def said() -> list[int]:
        ticket = engine.submit(Request((1, 2, 3), max_tokens=8))
        while not ticket.finished:
            engine.step()
        return ticket.completions[0].ids

    first = said()
    stir(model, "default", seed=9)
    engine.load(merge(model, into=plain))
    fresh = complete(merge(model), [[1, 2, 3]], ends=set(), max_tokens=8)[0].ids
    assert said() == fresh != first


def test_names_that_no_matrix_has_and_ranks_too_high_are_refused():
    model = Transformer(CONFIG, seed=0)
    with pytest.raises(ConfigError, match="no matrix has that name") as error:
        attach(model, LoraConfig(targets=("q_proj", "lm_head")), seed=0)
    assert "lm_head" in error.value.why and "gate_proj" in error.value.hint
    with pytest.raises(ValueError, match="rank 17 is more than a matrix has"):
        attach(model, LoraConfig(rank=17), seed=0)                              # k and v have 16 rows
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


def test_matrices_are_named_as_in_the_folder():
    found = matrices(CONFIG, {"blocks.1.attention.qkv": (64, 32), "blocks.1.mlp.down": (32, 48)})
    assert [(theirs, rows.start, rows.stop) for theirs, rows in found["blocks.1.attention.qkv"]] == [
        ("model.layers.1.self_attn.q_proj", 0, 32), ("model.layers.1.self_attn.k_proj", 32, 48),
        ("model.layers.1.self_attn.v_proj", 48, 64)]
    assert found["blocks.1.mlp.down"] == [("model.layers.1.mlp.down_proj", slice(0, 32))]
