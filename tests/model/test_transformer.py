"""The decoder's shape, its first weights, and the few formulas it is made of."""

import math

import pytest
import torch
from pydantic import ValidationError

from bloomery.model.config import ModelConfig, kv_cache_bytes, tokens_for
from bloomery.model.forest import Forest, roots
from bloomery.model.mlp import MLP
from bloomery.model.norms import rms_norm
from bloomery.model.positions import sinusoidal
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=20, context=16, depth=3, width=24, heads=4, kv_heads=2, head_width=6, hidden=32)


ORIGINAL = {"norm": "layer", "norm_order": "post", "activation": "relu", "positions": "sinusoidal", "biases": "all",
            "scaled_embedding": True, "kv_heads": 4}                                    # Vaswani et al. 2017
NETWORKS = [{}, {"tied": False}, ORIGINAL, {"norm": "layer", "positions": "learned", "activation": "gelu"},
            {"biases": "qkv", "positions": "none"}, {"biases": "attention", "qk_norm": True},
            {"norm": "layer", "qk_norm": True, "positions": "learned", "tied": False}, {"biases": "all"},
            {"norm": "rms_plus_one", "norm_order": "sandwich", "activation": "geglu_tanh"}]


@pytest.mark.parametrize("change", NETWORKS, ids=str)
def test_the_number_of_parameters_is_what_the_configuration_says(change):
    config = CONFIG.model_copy(update=change)
    assert sum(p.numel() for p in Transformer(config).parameters()) == config.parameters()


def test_a_configuration_stays_small():
    assert len(ModelConfig.model_fields) <= 30


def test_first_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    one = Transformer(CONFIG, seed=5)
    torch.manual_seed(2)
    same, other = Transformer(CONFIG, seed=5), Transformer(CONFIG, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_first_weights_have_the_deviation_they_should():
    model = Transformer(ModelConfig(vocabulary=512, depth=4, width=256, hidden=512))
    residual = 0.02 / math.sqrt(2 * 4)
    for name, weight in model.named_parameters():
        expected = residual if name.endswith(("output.weight", "down.weight")) else 0.02
        if weight.dim() == 1:
            assert weight.eq(1).all(), name
        else:
            assert float(weight.detach().std()) == pytest.approx(expected, rel=0.03), name


def test_biases_begin_at_zero_and_norms_as_no_change():
    for change, start in (({"norm": "layer", "biases": "all"}, 1), ({"norm": "rms_plus_one"}, 0)):
        for name, weight in Transformer(CONFIG.model_copy(update=change), seed=3).named_parameters():
            if weight.dim() == 1:
                assert weight.eq(0 if name.endswith("bias") else start).all(), name


def test_zero_residual_init_makes_every_block_the_identity_at_first():
    model = Transformer(CONFIG.model_copy(update={"residual_init": "zero"}), seed=3)
    ids = torch.arange(16)
    assert torch.equal(model(ids, ids, Forest(roots([16]))), model.norm(model.embedding.weight[ids]))
    assert model.blocks[0].attention.qkv.weight.std() > 0.01


def test_the_untrained_model_knows_nothing_in_particular():
    ids = torch.arange(16)
    model = Transformer(CONFIG)
    nll = torch.nn.functional.cross_entropy(model.logits(model(ids, ids, Forest(roots([16])))), ids.flip(0))
    assert float(nll.detach()) == pytest.approx(math.log(20), abs=0.1)


def test_the_future_is_not_seen():
    model = Transformer(CONFIG, compute=torch.float64).double()
    ids = torch.arange(12)
    changed = ids.clone()
    changed[7] = 19
    before, after = (model(x, torch.arange(12), Forest(roots([12]))) for x in (ids, changed))
    assert torch.equal(before[:7], after[:7]) and not torch.isclose(before[7:], after[7:]).all(-1).any()


def test_positions_matter_only_by_their_differences():
    model = Transformer(CONFIG, compute=torch.float64).double()
    ids = torch.arange(10)
    near, far = (model(ids, torch.arange(10) + offset, Forest(roots([10]))) for offset in (0, 1000))
    torch.testing.assert_close(near, far, atol=1e-9, rtol=0)
    assert not torch.allclose(near, model(ids, torch.arange(10) * 2, Forest(roots([10]))), atol=1e-6)


@torch.no_grad()
def test_the_original_transformer_is_torch_s_encoder_layer_under_a_causal_mask():
    """Post-norm, LayerNorm, ReLU, biases, sinusoidal positions, embeddings times sqrt(D)."""
    config = ModelConfig(**dict(CONFIG) | ORIGINAL)
    model = Transformer(config, compute=torch.float64).double()
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.3)
    ids = torch.arange(12)
    x = model.embedding.weight[ids] * 24 ** 0.5 + sinusoidal(ids, 24)
    for block in model.blocks:
        theirs = torch.nn.TransformerEncoderLayer(24, 4, 32, dropout=0.0, batch_first=True, dtype=torch.float64)
        ours = {"self_attn.in_proj": block.attention.qkv, "self_attn.out_proj": block.attention.output,
                "linear1": block.mlp.up, "linear2": block.mlp.down, "norm1": block.attention_norm,
                "norm2": block.mlp_norm}
        state = {f"{name}{'_' if name.endswith('in_proj') else '.'}{kind}": getattr(part, kind)
                 for name, part in ours.items() for kind in ("weight", "bias")}
        theirs.load_state_dict(state)
        x = theirs(x[None], src_mask=torch.ones(12, 12).triu(1).bool())[0]
    torch.testing.assert_close(model(ids, ids, Forest(roots([12]))), x, atol=1e-10, rtol=0)


@torch.no_grad()
def test_sandwich_norms_stand_before_and_after_each_layer():
    config = CONFIG.model_copy(update={"norm_order": "sandwich", "depth": 1})
    model = Transformer(config, compute=torch.float64).double()
    block, x, memory = model.blocks[0], torch.randn(5, 24, dtype=torch.float64), Forest(roots([5]))
    turns = model.turns(torch.arange(5))
    for norm in (block.attention_norm, block.attention_after, block.mlp_norm, block.mlp_after):
        norm.weight.copy_(torch.randn(24))
    h = x + block.attention_after(block.attention(block.attention_norm(x), *turns, memory, 0))
    torch.testing.assert_close(block(x, *turns, memory, 0), h + block.mlp_after(block.mlp(block.mlp_norm(h))))


@pytest.mark.parametrize(("activation", "formula"), [
    ("relu2", lambda x: x.clamp(min=0) ** 2), ("gelu", lambda x: x * torch.special.ndtr(x)),
    ("gelu_tanh", lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))))])
@torch.no_grad()
def test_a_feed_forward_layer_without_a_gate(activation, formula):
    layer, x = MLP(6, 10, activation, bias=True).double(), torch.randn(4, 6, dtype=torch.float64)
    for weight in layer.parameters():
        weight.copy_(torch.randn(weight.shape))
    hidden = formula(x @ layer.up.weight.T + layer.up.bias)
    torch.testing.assert_close(layer(x), hidden @ layer.down.weight.T + layer.down.bias)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
def test_positions_that_are_added_or_absent(positions):
    """Without positions only the past counts: the same token after the same set of tokens reads the same."""
    model = Transformer(CONFIG.model_copy(update={"positions": positions}), compute=torch.float64).double()
    here, there = (model(torch.tensor([3, 3, 3, 3]), torch.arange(4) + offset, Forest(roots([4]))) for offset in (0, 5))
    assert torch.allclose(here, there) == (positions == "none")
    assert torch.allclose(here[0], here[3]) == (positions == "none")


def test_learned_positions_end_with_the_context():
    model = Transformer(CONFIG.model_copy(update={"positions": "learned"}))
    with pytest.raises(ValueError, match="position 16 is beyond the context"):
        model(torch.arange(2), torch.tensor([15, 16]), Forest(roots([2])))


def test_logits_stay_within_their_softcap():
    model, hidden = Transformer(CONFIG.model_copy(update={"head_softcap": 2.0})), torch.randn(3, 24) * 100
    plain = hidden @ model.head.weight.T
    assert plain.abs().max() > 4
    torch.testing.assert_close(model.logits(hidden), 2 * torch.tanh(plain / 2))


def test_a_zero_vector_stays_zero_and_eps_must_be_positive():
    assert rms_norm(torch.zeros(2, 4), torch.ones(4), 1e-6).eq(0).all()
    with pytest.raises(ValueError, match="eps must be > 0"):
        rms_norm(torch.ones(2, 4), torch.ones(4), 0.0)


def test_norms_take_their_statistics_in_fp32():
    x = (torch.ones(1, 512) * 300).half()                   # squares overflow half precision
    torch.testing.assert_close(rms_norm(x, torch.ones(512), 1e-6).float(), torch.ones(1, 512))


@pytest.mark.parametrize(("change", "part"), [({"heads": 3, "kv_heads": 2}, "multiple of kv_heads"),
                                              ({"head_width": 7}, "must be even"), ({"depth": 0}, "depth"),
                                              ({"rope": {"fraction": 0.5}}, "must be even"),
                                              ({"rope": {"type": "yarn", "factor": 2.0}}, "needs original_context"),
                                              ({"rope": {"type": "linear", "factor": 0.5}}, "or equal to 1"),
                                              ({"rope": {"high_freq_factor": 1.0}}, "must be above low_freq_factor"),
                                              ({"window_layers": (0,)}, "without a window"),
                                              ({"window": 4, "window_layers": (3,)}, "between 0 and depth - 1"),
                                              ({"positions": "sinusoidal", "width": 7}, "must be even")])
def test_shapes_that_cannot_be_are_refused(change, part):
    with pytest.raises(ValidationError, match=part):
        ModelConfig(**(CONFIG.model_dump() | change))


def test_costs():
    """Llama 7B: parameters as published; 2 GiB of cache for 4096 tokens; 6 N + 6 L H E T FLOPs a token.

    An embedding that is only looked up takes no products, and a window shortens the rows of scores.
    """
    llama = ModelConfig(vocabulary=32_000, context=4096, depth=32, width=4096, heads=32, kv_heads=32, head_width=128,
                        hidden=11_008, tied=False)
    assert llama.parameters() == 6_738_415_616
    assert llama.cache_bytes(1) == kv_cache_bytes(32, 1, 32, 4096, 128, 2) == 2**31
    assert llama.flops_per_token() == 6 * (llama.parameters() - 32_000 * 4096) + 6 * 32 * 4096 * 4096
    windowed = CONFIG.model_copy(update={"window": 4, "window_layers": (1,)})
    assert windowed.flops_per_token() == 6 * CONFIG.parameters() + 12 * 24 * (8 + 3.5 + 8)
    assert tokens_for(6e15, parameters=1e6) == 1e9
