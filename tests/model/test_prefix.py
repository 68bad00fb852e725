"""Prefix tuning: the definition, every shape of forest, decoding, the file, and that it learns."""

import copy
import json
from functools import partial

import adapted_models
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from bloomery.core.errors import InputError
from bloomery.model.cache import Cache
from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import Scoring, attention
from bloomery.model.forest import DenseForest, Forest, Segments, roots
from bloomery.model.nf4 import quantise
from bloomery.model.prefix import PrefixCache, PrefixConfig, Prefixed, attach, cache_for, from_file, to_file
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=31, context=64, depth=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=48)
IDS = torch.randint(0, 31, (40,), generator=torch.Generator().manual_seed(0))
OPTIONS = PrefixConfig(prefix_tokens=5, prefix_hidden=12)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loud(compute: torch.dtype = torch.float32, **changes) -> Transformer:
    return adapted_models.loud(CONFIG.model_copy(update=changes), times=10, seed=1, compute=compute)


def logits(model: Transformer, memory: object = None) -> torch.Tensor:
    return adapted_models.logits(model, IDS, memory)


def forest_of(lengths: list[int], parents: list[int]) -> Segments:
    start = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Segments(start, torch.tensor(parents, dtype=torch.int32))


SHAPES = {"one": ([9], [-1]), "equal roots": ([6, 6, 6], [-1] * 3), "ragged": ([7, 1, 20], [-1] * 3),
          "two answers": ([9, 4, 6, 5], [-1, 0, 0, -1]), "nested": ([3, 2, 4, 1], [-1, 0, 1, 0])}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", [Forest, DenseForest])
@pytest.mark.parametrize("window", [None, 8])
def test_it_is_keys_and_values_in_front_of_every_path(shape, kind, window):
    """Path by path by the definition, outputs and gradients; a window counts the prefix as tokens."""
    segments, prefix = forest_of(*shape), random(1, 2, 3, 2, 8).double().requires_grad_()
    q, k, v = (random(segments.length, heads, 8, seed=heads).double().requires_grad_() for heads in (4, 2, 2))
    got = Prefixed(kind(segments), prefix).attend(0, q, k, v, Scoring(window=window))
    expected = []
    for (first, end), chain in zip(segments.runs, segments.chains, strict=True):
        path = [token for run in (*chain,) for token in range(*segments.runs[run])] + [*range(first, end)]
        keys, values = (torch.cat((prefix[0, i], x[path])).transpose(0, 1) for i, x in enumerate((k, v)))
        place = torch.arange(len(path) + 3)
        ago = place[-(end - first):, None] - place
        mask = (ago >= 0) & (ago < (window or 10**9))
        expected.append(attention(q[first:end].transpose(0, 1), keys, values, mask).transpose(0, 1))
    expected = torch.cat(expected)
    torch.testing.assert_close(got, expected)
    slope = random(*got.shape, seed=9).double()
    for one, other in zip(torch.autograd.grad(got, (prefix, q, k, v), slope),
                          torch.autograd.grad(expected, (prefix, q, k, v), slope), strict=True):
        torch.testing.assert_close(one, other)


def test_positions_of_the_text_begin_behind_it_and_it_is_not_turned():
    """Keys and values that a layer would make of real tokens at those places, put in by hand, give the same numbers."""
    model = loud()
    whole = logits(model)[5:].detach()
    seen: list = []

    class Recorder(Forest):
        def attend(self, layer, q, k, v, scoring):
            seen.append(torch.stack((k[:5], v[:5])))
            return super().attend(layer, q, k, v, scoring)

    model(IDS, torch.arange(len(IDS)), Recorder(roots([len(IDS)])))
    attach(model, OPTIONS, 0)
    said, tensors = to_file(model)
    tensors = {"prompt_embeddings": torch.stack(seen).permute(2, 0, 1, 3, 4).flatten(1).detach()}
    model = from_file(loud(), said, tensors)
    behind = model.logits(model(IDS[5:], torch.arange(len(IDS) - 5), Forest(roots([len(IDS) - 5]))))
    torch.testing.assert_close(behind, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["rope", "rope_interleaved", "learned"])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_network_is_folded_on_save(positions, compute):
    model = attach(loud(compute, positions=positions), OPTIONS, 0)
    said, tensors = to_file(model)
    assert tensors["prompt_embeddings"].shape == (5, 2 * 2 * 16)
    assert (said["peft_type"], said["num_virtual_tokens"], said["token_dim"]) == ("PREFIX_TUNING", 5, 16)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "prefix.start", "prefix.first.weight", "prefix.first.bias", "prefix.second.weight", "prefix.second.bias"}
    other = from_file(loud(compute, positions=positions), said, tensors)
    assert {name for name, p in other.named_parameters() if p.requires_grad} == {"prefix.said"}
    assert torch.equal(logits(other), logits(model))
    assert not torch.allclose(logits(other), logits(loud(compute, positions=positions)), atol=0.1)
    assert torch.equal(to_file(other)[1]["prompt_embeddings"], tensors["prompt_embeddings"])


def test_it_learns_and_the_model_stays():
    model = loud()
    before = {name: p.clone() for name, p in model.named_parameters()}
    attach(model, OPTIONS, 0)
    optimizer, losses = torch.optim.AdamW(model.prefix.parameters(), lr=1e-2), []
    for _ in range(40):
        losses.append(cross_entropy(logits(model)[:-1], IDS[1:]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]
    kept = {name: p for name, p in model.named_parameters() if name in before}
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in kept.items()) and len(kept) > 10


def test_recomputed_blocks_give_the_same_gradients():
    models = [attach(quantise(loud()), OPTIONS, 0) for _ in range(2)]
    for block in models[1].blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    for model in models:
        cross_entropy(logits(model)[:-1], IDS[1:]).backward()
    for one, other in zip(*(model.prefix.parameters() for model in models), strict=True):
        assert torch.equal(one.grad, other.grad) and one.grad.abs().max() > 0


def test_a_copy_has_a_prefix_of_its_own():
    model = attach(loud(), OPTIONS, 0)
    twin, before = copy.deepcopy(model), logits(model)
    with torch.no_grad():
        twin.prefix.start.add_(1)
    assert torch.equal(logits(model), before) and not torch.equal(logits(twin), before)


@torch.no_grad()
@pytest.mark.parametrize("four_bits", [False, True])
def test_it_decodes_with_a_cache_of_its_own(four_bits):
    """Two slots fed unevenly, one cut and fed again, one copied, and padding behind the tokens."""
    model = attach(quantise(loud()) if four_bits else loud(), OPTIONS, 0)
    expected = logits(model)
    cache = cache_for(model, 3, 48)
    assert type(cache) is PrefixCache and type(cache_for(loud(), 3, 48)) is Cache

    def feed(slots: list[int], parts: list[slice], padding: int = 0) -> torch.Tensor:
        ids = torch.cat([*(IDS[part] for part in parts), IDS.new_zeros(padding)])
        counts = [len(IDS[part]) for part in parts]
        hidden = model(ids, cache.feed(slots, counts, padding=padding), cache)
        cache.advance()
        return model.logits(hidden[:sum(counts)])

    close = {"atol": 1e-3, "rtol": 1e-3}
    torch.testing.assert_close(feed([0, 1], [slice(0, 7), slice(0, 3)]), expected[[*range(7), *range(3)]], **close)
    torch.testing.assert_close(feed([1, 0], [slice(3, 4), slice(7, 20)], 5), expected[[3, *range(7, 20)]], **close)
    cache.copy(0, 2, 12)
    cache.truncate(0, 4)
    assert cache.lengths == [4, 4, 12]
    torch.testing.assert_close(feed([0, 2], [slice(4, 9), slice(12, 40)]), expected[[*range(4, 9), *range(12, 40)]],
                               **close)
    cache.wipe(1)
    torch.testing.assert_close(feed([1], [slice(0, 40)]), expected, **close)
    with pytest.raises(ValueError, match="slot 0 holds 9 tokens, not 10"):
        cache.copy(0, 1, 10)
    with pytest.raises(ValueError, match="exceeded in slot 2"):
        cache.feed([2], [9])
    assert cache.lengths == [9, 40, 40]


@pytest.mark.parametrize("ours", [True, False])
def test_peft_reads_ours_and_we_read_theirs(tmp_path, ours):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers")
    save_model(loud(), tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    if ours:
        model = attach(loud(), OPTIONS, 0)
        said, tensors = to_file(model)
        (tmp_path / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": "base"}))
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        theirs = peft.PeftModel.from_pretrained(theirs, tmp_path)
    else:
        theirs = peft.get_peft_model(theirs, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=7))
        theirs.save_pretrained(tmp_path / "adapter")
        said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        model = from_file(loud(), said, load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(IDS[None]).logits[0], logits(model), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_is_refused():
    model = loud()
    with pytest.raises(InputError) as error:
        attach(model, PrefixConfig(prefix_tokens=64), 0)
    assert "64 tokens, and the context is 64" in error.value.why and all(p.requires_grad for p in model.parameters())
    attach(model, PrefixConfig(prefix_tokens=25), 0)
    with pytest.raises(ValueError, match="position 39 behind a prefix of 25 is beyond the context, 64"):
        logits(model)
    with pytest.raises(ValueError, match="PrefixCache"):
        cache = Cache(CONFIG, 1, 64)
        model(IDS[:3], cache.feed([0], [3]), cache)
    said, tensors = to_file(model)
    with pytest.raises(InputError) as error:
        from_file(Transformer(CONFIG.model_copy(update={"depth": 3})), said, tensors)
    assert "(25, 64), expected (25, 96)" in error.value.why
