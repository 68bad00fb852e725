"""Rows of tokens that learn: what they compute, what gets a gradient, and PEFT's files of them."""

import json

import pytest
import torch
from adapted_models import GPT2, IDS, SHAPE, disturbed, logits
from torch.nn.functional import cross_entropy

from bloomery.core.errors import InputError
from bloomery.data.batch import Batch
from bloomery.losses import parallel_ce
from bloomery.model.adapt import AdaptConfig, adapt, merge, trained_weights, unmerge
from bloomery.model.forest import roots
from bloomery.model.lora import set_adapter, using
from bloomery.model.packed import packed
from bloomery.model.peft_files import CONFIG, load_adapter, save_adapter
from bloomery.model.store import save_model
from bloomery.model.token_rows import TokenRows, attach, places, rows_of
from bloomery.model.transformer import Transformer
from bloomery.train.objective import causal_lm

KINDS = {"tied": SHAPE.model_copy(update={"tied": True}), "untied": SHAPE.model_copy(update={"tied": False}),
         "gpt2": GPT2}
CONTROL = (7, 3, 39)


def learned(kind: str = "tied", *, method: str = "lora", control: tuple[int, ...] = CONTROL,
            compute: torch.dtype = torch.float32) -> Transformer:
    model = Transformer(KINDS[kind], seed=0, compute=compute)
    return disturbed(adapt(model, AdaptConfig(method=method, rank=4), control=control))


def batch() -> Batch:
    segments = roots([19])
    return Batch(IDS[:-1], IDS[1:], torch.linspace(0, 2, 19), segments.positions, segments, 19.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "qlora", "adapter"])
def test_only_rows_of_the_named_tokens_learn_beside_the_adapter(kind, method):
    model = learned(kind, method=method)
    rows = {name: p for name, p in trained_weights(model).items() if name.endswith("_rows")}
    assert [tuple(p.shape) for p in rows.values()] == [(3, 32)] * (1 if KINDS[kind].tied else 2)
    assert not any(p.requires_grad for layer in rows_of(model).values() for p in (layer.weight,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_whole_weight_at_these_rows(kind, compute):
    model = learned(kind, compute=compute)
    plain = merge(model).requires_grad_(True)
    for each in (model, plain):
        causal_lm(each, batch(), label_smoothing=0.1, z_loss=0.01)[0].backward()
    own = torch.tensor(sorted(CONTROL))
    sides = ["head"] if KINDS[kind].tied else ["head", "embedding"]
    close = {"atol": 1e-5, "rtol": 1e-5} if compute == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    for side in sides:
        rows, whole = getattr(model, side), getattr(plain, side).weight.grad
        torch.testing.assert_close(rows.learned("default")[0].grad, whole[own], **close)
        assert rows.weight.grad is None


def test_the_kernel_of_some_rows_is_torchs_gradient_at_them():
    torch.manual_seed(0)
    hidden, shadow, targets = torch.randn(300, 8), torch.randn(50, 8), torch.randint(50, (300,))
    own, weights = torch.tensor([0, 17, 49]), torch.rand(300)
    rows = shadow[own].clone().requires_grad_()
    loss, _ = parallel_ce.linear_cross_entropy(hidden, rows, targets, weights, shadow=shadow, learned=own)
    logp = parallel_ce.linear_logp(hidden, rows, targets, shadow=shadow, learned=own)
    (loss + (logp * weights).sum() * 0.5).backward()
    dense = shadow.clone().requires_grad_()
    (0.5 * (cross_entropy(hidden @ dense.T, targets, reduction="none") * weights).sum()).backward()
    torch.testing.assert_close(rows.grad, dense.grad[own], atol=1e-5, rtol=1e-5)
    assert places(own, torch.tensor([17, 18, 0, 50]))[1].tolist() == [True, False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_products_with_a_gradient_reach_the_rows_too(kind):
    model = learned(kind)
    plain = merge(model).requires_grad_(True)
    for each in (model, plain):
        logits(each).square().sum().backward()
    torch.testing.assert_close(model.head.learned("default")[0].grad, plain.head.weight.grad[sorted(CONTROL)],
                               atol=1e-4, rtol=1e-4)


def test_the_base_is_there_whenever_it_is_asked_for_and_several_adapters_share_it():
    base, model = Transformer(KINDS["tied"], seed=0), learned()
    first = logits(model)
    with using(model, None):
        torch.testing.assert_close(logits(model), logits(base))
    assert torch.equal(logits(model), first)
    attach(model, [5], name="other")
    set_adapter(model, "other")
    alone = attach(Transformer(KINDS["tied"], seed=0), [5], name="other")
    torch.testing.assert_close(logits(model), logits(alone))
    set_adapter(model, "default")
    assert torch.equal(logits(model), first)


def test_a_step_is_seen_by_what_was_made_of_the_weight_before():
    model = learned()
    before, merged = logits(model), merge(model)
    with torch.no_grad():
        model.head.learned("default")[0].add_(1.0)
    assert not torch.allclose(logits(model), before)
    torch.testing.assert_close(logits(merge(model, merged)), logits(model), atol=1e-5, rtol=1e-5)
    base = Transformer(KINDS["tied"], seed=0)
    torch.testing.assert_close(logits(unmerge(merged, model)), logits(base), atol=1e-5, rtol=1e-5)


def test_weights_laid_out_for_decoding_have_the_rows_in_them():
    model = learned(compute=torch.bfloat16)
    torch.testing.assert_close(logits(packed(model)), logits(model), atol=0.05, rtol=0.05)
    four_bits = learned(method="qlora", compute=torch.bfloat16)
    assert packed(four_bits) is four_bits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_rows_are_saved_and_come_back(tmp_path, kind, method):
    model = learned(kind, method=method)
    save_adapter(model, tmp_path)
    back = load_adapter(Transformer(KINDS[kind], seed=0), tmp_path)
    torch.testing.assert_close(logits(back), logits(model), atol=1e-6, rtol=1e-6)
    assert isinstance(back.head, TokenRows) and (back.embedding is back.head) == KINDS[kind].tied
    without = load_adapter(Transformer(KINDS[kind], seed=0), saved_without_rows(tmp_path / "none", kind, method))
    assert not isinstance(without.head, TokenRows)


def saved_without_rows(folder, kind, method):
    save_adapter(learned(kind, method=method, control=()), folder)
    return folder


def test_tokens_that_the_model_does_not_have_are_refused(tmp_path):
    with pytest.raises(InputError, match="not tokens"):
        attach(Transformer(SHAPE, seed=0), [3, 40])
    save_adapter(learned(), tmp_path)
    said = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(said | {"trainable_token_indices": [3, 7]}))
    with pytest.raises(InputError, match="do not fit"):
        load_adapter(Transformer(KINDS["tied"], seed=0), tmp_path)


# --- beside PEFT --------------------------------------------------------------------------------------------------

@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="peft is not installed: pip install peft, to compare adapters with it")


@pytest.mark.parametrize("kind", KINDS)
def test_peft_and_we_read_each_others_rows(tmp_path, peft, kind):
    from transformers import AutoModelForCausalLM

    save_model(Transformer(KINDS[kind], seed=0), tmp_path / "base")
    model = learned(kind)
    save_adapter(model, tmp_path / "ours", base=str(tmp_path / "base"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours")
    with torch.no_grad():
        said = adapted.eval()(IDS[None]).logits[0]
    torch.testing.assert_close(said, logits(model), atol=1e-5, rtol=1e-5)
    adapted.save_pretrained(tmp_path / "theirs")
    back = load_adapter(Transformer(KINDS[kind], seed=0), tmp_path / "theirs")
    torch.testing.assert_close(logits(back), said, atol=1e-5, rtol=1e-5)
