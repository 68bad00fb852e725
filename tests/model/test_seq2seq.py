"""The encoder-decoder: T5 as transformers computes it, both ways; flat batches, caches and beams change nothing."""

import json

import pytest
import torch

from bloomery.core.errors import ConfigError, InputError
from bloomery.data.batch import Run, forest
from bloomery.data.parallel import Pair, pair_batch
from bloomery.generate.sampling import Sampling
from bloomery.generate.seq2seq import beamed, written
from bloomery.losses.token import IGNORE
from bloomery.model.adapt import AdaptConfig, adapt, merge
from bloomery.model.cross_attention import Kept, Paired
from bloomery.model.dot_product import attention
from bloomery.model.forest import Forest, roots
from bloomery.model.linear import Linear
from bloomery.model.relative_bias import bucket
from bloomery.model.seq2seq import EncoderDecoder, Split
from bloomery.model.seq2seq_files import load_seq2seq, save_seq2seq
from bloomery.model.seq2seq_presets import NETWORKS, NetworkOptions, network
from bloomery.train.objective import causal_lm

SOURCES = [[5, 9, 12, 3, 1], [7, 30, 1], [*range(2, 40)], [4, 1]]
TARGETS = [[38, 5, 6, 37, 1], [38, 9, 1], [3, 1], [8, 8, 9, 1]]
KINDS = ("t5-tiny", "t5-v1.1-tiny")


def pairs() -> list[Pair]:
    return [Pair(source, target) for source, target in zip(SOURCES, TARGETS, strict=True)]


def tiny(preset: str = "transformer-tiny", **change) -> EncoderDecoder:
    """A preset with its switches, small, and weights large enough that all of them show."""
    base = NETWORKS[preset]
    sizes = {"vocabulary": 61, "width": 24, "heads": 3, "kv_heads": 3, "head_width": 8, "hidden": 40, "depth": 2,
             "encoder_depth": 2, "context": 64, "dropout": 0.0}
    if base.relative_buckets:
        sizes |= {"relative_buckets": 8, "relative_distance": 16}
    model = EncoderDecoder(type(base)(**dict(base) | sizes | change), seed=None)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            near = 1.0 if "norm.weight" in name else 0.0
            weight.copy_(near + 0.3 * torch.randn(weight.shape, generator=generator))
    return model


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, value)


@pytest.mark.parametrize("preset", KINDS)
def test_t5_has_the_loss_logits_and_gradients_of_transformers_on_padded_rows(tmp_path, preset):
    from transformers import T5ForConditionalGeneration

    model = tiny(preset)
    save_seq2seq(model, tmp_path, eos=1)
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    labels = padded(TARGETS, IGNORE)
    out = theirs(input_ids=padded(SOURCES, 0), labels=labels,
                 attention_mask=padded([[1] * len(row) for row in SOURCES], 0))
    batch = pair_batch(pairs(), 0)
    logits = model.logits(model(batch.ids, batch.positions, Forest(batch.segments)))[Split(batch.segments).is_target]
    torch.testing.assert_close(logits, out.logits[labels != IGNORE], atol=2e-5, rtol=1e-5)
    loss, _ = causal_lm(model, batch)
    torch.testing.assert_close(loss / batch.count, out.loss)
    (loss / batch.count).backward()
    out.loss.backward()
    known = dict(theirs.named_parameters())
    ours = {"embedding": (model.embedding.weight, "shared.weight"),
            "relative": (model.encoder.relative.weight,
                         "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            "cross": (model.decoder.blocks[1].cross.query.weight, "decoder.block.1.layer.1.EncDecAttention.q.weight")}
    for mine, name in ours.values():
        torch.testing.assert_close(mine.grad, known[name].grad, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("preset", KINDS)
def test_what_transformers_writes_opens_here_and_export_then_import_is_identity(tmp_path, preset):
    from transformers import T5ForConditionalGeneration

    model = tiny(preset)
    save_seq2seq(model, tmp_path / "ours", eos=1)
    T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        again = load_seq2seq(tmp_path / folder)
        assert again.config.tied == model.config.tied and again.config.scaled_head == model.config.scaled_head
        batch = pair_batch(pairs(), 0)
        assert torch.equal(*(net(batch.ids, batch.positions, Forest(batch.segments)) for net in (model, again)))


@pytest.mark.parametrize("ends", [{1}, {3, 8}])
def test_greedy_and_beam_search_are_those_of_transformers(tmp_path, ends):
    from transformers import T5ForConditionalGeneration

    model = tiny("t5-tiny")
    save_seq2seq(model, tmp_path, eos=1)
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    asked = [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
             {"num_beams": 4, "length_penalty": -1.0, "early_stopping": "never"}]
    for options in asked:
        expected = []
        for source in SOURCES:
            found = theirs.generate(torch.tensor([source]), do_sample=False, max_new_tokens=10, pad_token_id=0,
                                    eos_token_id=sorted(ends), **options)[0].tolist()[1:]
            last = next((place for place, token in enumerate(found) if token in ends), len(found))
            expected.append(found[:last])
        if options["num_beams"] == 1:
            assert written(model, SOURCES, ends=ends, max_tokens=10) == expected
        else:
            named = {"beams" if name == "num_beams" else name: value for name, value in options.items()}
            best = beamed(model, SOURCES, ends=ends, max_tokens=10, **named)
            assert [beams[0].ids for beams in best] == expected


@pytest.mark.parametrize("preset", ["transformer-tiny", *KINDS])
def test_decoding_step_by_step_gives_the_logits_of_the_whole(preset):
    model = tiny(preset)
    batch = pair_batch(pairs(), 0)
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))
    whole = model.logits(hidden)[Split(batch.segments).is_target].split([len(target) for target in TARGETS])
    under_way = model.decoding(SOURCES, rows=4, tokens=8)
    parents, last = [0, 1, 2, 3], [0] * 4
    for step in range(5):
        logits = under_way.step(parents, last)
        alive = [row for row in range(4) if len(TARGETS[row]) > step]
        torch.testing.assert_close(logits, torch.stack([whole[row][step] for row in alive]), atol=2e-5, rtol=1e-4)
        going = [row for row in alive if len(TARGETS[row]) > step + 1]
        parents, last = [alive.index(row) for row in going], [TARGETS[row][step] for row in going]


def test_pairs_in_one_batch_do_not_see_each_other_and_a_source_may_have_several_targets():
    model = tiny()
    batch = pair_batch(pairs(), 0)
    together = model(batch.ids, batch.positions, Forest(batch.segments))
    alone = [pair_batch([pair], 0) for pair in pairs()]
    torch.testing.assert_close(together, torch.cat([model(one.ids, one.positions, Forest(one.segments))
                                                    for one in alone]), atol=1e-5, rtol=1e-5)
    source, one, other = SOURCES[0], TARGETS[0], TARGETS[3]
    twice = forest([Run(source, source, [0.0] * len(source)), *(Run([0, *target[:-1]], target, [1.0] * len(target), 0)
                                                               for target in (one, other))])
    apart = pair_batch([Pair(source, one), Pair(source, other)], 0)
    losses = [causal_lm(model, each)[0] for each in (twice, apart)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, model.encoder.blocks[0].mlp.down.weight)[0] for loss in losses]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_cross_attention_is_the_definition_in_training_and_in_decoding(heads):
    generator = torch.Generator().manual_seed(0)
    encoded, q = torch.randn(9, 6, generator=generator), torch.randn(7, heads[0], 8, generator=generator)
    layer = Linear(6, 2 * heads[1] * 8)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    paired = Paired(roots([3, 2, 2]), roots([5, 4], causal=False), [0, 1, 0], encoded)
    k, v = layer(encoded).view(9, -1, 8).chunk(2, 1)
    expected = attention(*(x.transpose(0, 1) for x in (q, k, v)), paired.mask).transpose(0, 1)
    torch.testing.assert_close(paired.read(0, q, layer), expected, atol=1e-5, rtol=1e-5)
    kept = Kept(encoded, roots([5, 4], causal=False))
    kept.feed([0, 0, 0, 1, 1, 0, 0])
    torch.testing.assert_close(kept.read(0, q, layer), expected, atol=1e-5, rtol=1e-5)


def test_buckets_are_those_of_transformers():
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 300)
    for both in (True, False):
        theirs = T5Attention._relative_position_bucket(distance, both, 32, 128)
        assert torch.equal(bucket(distance, buckets=32, furthest=128, both=both), theirs)
    far = torch.tensor([0, -1, -7, -8, -1000])
    assert bucket(far, buckets=16, furthest=64, both=False).tolist() == [0, 1, 7, 8, 15]


@pytest.mark.parametrize("preset", NETWORKS)
def test_parameters_are_counted_as_they_are(preset):
    config = NETWORKS[preset]
    with torch.device("meta"):
        model = EncoderDecoder(config, seed=None)
    assert config.parameters() == sum(p.numel() for p in model.parameters())
    assert config.flops_per_token() < 6 * config.parameters()


def test_lora_learns_beside_a_frozen_encoder_decoder_and_merges():
    model = adapt(tiny("t5-tiny"), AdaptConfig(method="lora", rank=4))
    batch = pair_batch(pairs(), 0)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.05)
    before = causal_lm(model, batch)[0]
    for _ in range(5):
        causal_lm(model, batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    after = causal_lm(model, batch)[0]
    assert after < before and 0 < len(learned) < len([*model.parameters()])
    torch.testing.assert_close(causal_lm(merge(model), batch)[0], after, rtol=1e-4, atol=1e-4)


def test_dropout_drops_only_where_a_network_learns():
    model = tiny(dropout=0.5)
    batch = pair_batch(pairs(), 0)
    first, second = (causal_lm(model, batch)[0].item() for _ in range(2))
    with torch.no_grad():
        third, fourth = (causal_lm(model, batch)[0].item() for _ in range(2))
    assert first != second and third == fourth


def test_sampling_is_a_function_of_the_seed_and_the_source():
    model, how = tiny(), Sampling(temperature=1.0, top_k=20)
    one, again, other = (written(model, SOURCES, ends={1}, max_tokens=6, how=how, seed=seed) for seed in (0, 0, 1))
    assert one == again != other


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(ConfigError, match="transformer-tiny"):
        network(NetworkOptions(preset="transformer-tiny", cell="lstm"), vocabulary=9, start=0, seed=0)
    with pytest.raises(ValueError, match="no window"):
        tiny(window=8)
    with pytest.raises(ValueError, match="continues a target"):
        Split(forest([Run([1], [1], [1.0]), Run([1], [1], [1.0], 0), Run([1], [1], [1.0], 1)]).segments).owner  # noqa: B018
    with pytest.raises(InputError, match="a source cannot be read"):
        written(tiny(), [[]], ends={1}, max_tokens=3)
    model = tiny("t5-tiny")
    save_seq2seq(model, tmp_path, eos=1)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | {"feed_forward_proj": "gated-tan"}))
    with pytest.raises(InputError, match="gated-tan"):
        load_seq2seq(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(about | {"num_layers": 3}))
    with pytest.raises(InputError, match=r"missing encoder\.block\.2"):
        load_seq2seq(tmp_path)
