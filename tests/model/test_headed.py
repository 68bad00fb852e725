"""Heads of tasks: transformers opens our folders as the class of the task, with the same numbers for padded rows."""

import json

import pytest
import torch

from bloomery.core.errors import ConfigError, InputError
from bloomery.model.forest import roots
from bloomery.model.headed import Headed, Shape, load_headed, open_headed, save_headed, shape_in
from bloomery.model.presets import PRESETS
from bloomery.model.store import save_model
from tests.model.test_encoder_parity import LENGTHS, NETWORKS, SIZES, padded, random_model

TRUNKS = {"bert": NETWORKS["bert"], "modern": NETWORKS["modern"]} | {
    name: PRESETS[name].model_copy(update=SIZES | {"depth": 2, "window": None})
    for name in ("llama-3-8b", "gpt2", "qwen2-0.5b", "mistral-7b")}
LABELS = {"sequence": 3, "token": 4, "span": 2, "choice": 1}


def headed(name: str, task: str, pooling: str = "first") -> Headed:
    config = TRUNKS[name]
    pooling = "last" if config.causal else pooling
    names = ("a", "b", "c", "d")[:LABELS[task]] if task in ("sequence", "token") else ()
    model = Headed(random_model(config), Shape(task, LABELS[task], names, pooling), pad=0).eval()
    with torch.no_grad():
        for weight in (*model.score.parameters(), *model.pooler.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)) * 0.3)
    return model


@torch.no_grad()
def ours(model: Headed) -> torch.Tensor:
    ids, mask, _ = padded(0)
    return model.scores(ids[mask], roots(list(LENGTHS), causal=model.config.causal))


@pytest.mark.parametrize("task", LABELS)
@pytest.mark.parametrize("name", TRUNKS)
@torch.no_grad()
def test_transformers_opens_our_folder_and_scores_the_same(tmp_path, name, task):
    import transformers

    model = headed(name, task)
    save_headed(model, tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    theirs, info = getattr(transformers, kind).from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    (ids, mask, _), own = padded(0), ours(model)
    if kind.endswith("MultipleChoice"):
        expected = theirs.eval()(input_ids=ids[None], attention_mask=mask[None].long()).logits[0][:, None]
    else:
        out = theirs.eval()(input_ids=ids, attention_mask=mask.long())
        expected = torch.stack((out.start_logits, out.end_logits), -1) if task == "span" else out.logits
        expected = expected[mask] if task in ("token", "span") else expected
    assert expected.std() > 0.05
    torch.testing.assert_close(own, expected, atol=3e-5, rtol=0)
    again = load_headed(tmp_path).eval()
    assert again.shape == model.shape and torch.equal(ours(again), own)


@torch.no_grad()
def test_the_mean_of_a_modern_encoder_is_theirs_and_that_of_bert_is_ours_alone(tmp_path):
    from transformers import ModernBertForSequenceClassification

    model = headed("modern", "sequence", "mean")
    save_headed(model, tmp_path)
    ids, mask, _ = padded(0)
    theirs = ModernBertForSequenceClassification.from_pretrained(tmp_path).eval()(ids, attention_mask=mask.long())
    torch.testing.assert_close(ours(model), theirs.logits, atol=2e-5, rtol=0)
    bert = headed("bert", "sequence", "mean")
    save_headed(bert, tmp_path / "bert")
    assert json.loads((tmp_path / "bert" / "config.json").read_text())["model_type"] == "bloomery"
    assert torch.equal(ours(load_headed(tmp_path / "bert").eval()), ours(bert))


@torch.no_grad()
def test_pretraining_with_pairs_opens_as_bert_for_pretraining_and_its_pooler_goes_on(tmp_path):
    from transformers import BertForPreTraining

    model = Headed(random_model(NETWORKS["bert"]), Shape("pairs", 2), keeps_head=True).eval()
    save_headed(model, tmp_path)
    theirs, (ids, mask, types) = BertForPreTraining.from_pretrained(tmp_path).eval(), padded(2)
    out, segments = theirs(ids, attention_mask=mask.long(), token_type_ids=types), roots(list(LENGTHS), causal=False)
    hidden = model.states(ids[mask], segments, types[mask])
    torch.testing.assert_close(model.trunk.logits(hidden), out.prediction_logits[mask], atol=2e-5, rtol=0)
    torch.testing.assert_close(model.judged(hidden, segments), out.seq_relationship_logits, atol=2e-5, rtol=0)
    classifier = open_headed(tmp_path, Shape("sequence", 2), seed=1)
    assert torch.equal(classifier.pooler.dense.weight, model.pooler.dense.weight)
    assert float(classifier.score.bias.abs().max()) == 0 < float(classifier.score.weight.std()) < 0.03


def test_a_language_model_is_no_model_of_a_task_and_a_decoder_has_no_first_token(tmp_path):
    save_model(random_model(TRUNKS["gpt2"]), tmp_path)
    assert shape_in(tmp_path) is None
    with pytest.raises(InputError, match="not a model of a task"):
        load_headed(tmp_path)
    with pytest.raises(ConfigError, match="first token"):
        open_headed(tmp_path, Shape("sequence", 2), seed=0)
