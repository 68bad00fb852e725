"""Recurrent networks: flat batches, gradients, steps and attention against their definitions; and that they learn."""

import pytest
import torch
from torch import nn

from bloomery.data.parallel import Pair, pair_batch, paired
from bloomery.generate.seq2seq import beamed, written
from bloomery.model.forest import Forest, roots
from bloomery.model.rnn import RNN, RNNConfig, additive_scores, attended
from bloomery.model.seq2seq import Split
from bloomery.model.seq2seq_files import load_seq2seq, save_seq2seq
from bloomery.train.loop import train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import fresh

SOURCES = [[5, 9, 12, 3, 1], [7, 30, 1], [*range(2, 20)]]
TARGETS = [[3, 5, 6, 7, 1], [8, 9, 1], [3, 4, 1]]
SHAPES = [(cell, attention, depth) for cell in ("gru", "lstm") for attention in ("bahdanau", "dot", "general", "none")
          for depth in (1, 2)]


def double(**options) -> RNN:
    model = RNN(RNNConfig(vocabulary=31, width=12, hidden=16, **options)).double()
    model.compute = torch.float64
    return model


def batch_of():
    return pair_batch([Pair(source, target) for source, target in zip(SOURCES, TARGETS, strict=True)], 0)


def logits_of(model: RNN, batch) -> torch.Tensor:
    return model.logits(model(batch.ids, batch.positions, Forest(batch.segments)))[Split(batch.segments).is_target]


@pytest.mark.parametrize(("cell", "attention", "depth"), SHAPES)
def test_pairs_of_a_batch_are_as_alone_and_steps_as_the_whole(cell, attention, depth):
    model = double(cell=cell, attention=attention, depth=depth)
    assert model.config.parameters() == sum(p.numel() for p in model.parameters())
    whole = logits_of(model, batch_of())
    alone = torch.cat([logits_of(model, pair_batch([Pair(source, target)], 0))
                       for source, target in zip(SOURCES, TARGETS, strict=True)])
    torch.testing.assert_close(whole, alone, atol=1e-12, rtol=0)
    under_way, last = model.decoding(SOURCES, rows=3, tokens=3), [0, 0, 0]
    firsts = [sum(map(len, TARGETS[:row])) for row in range(3)]
    for step in range(3):
        torch.testing.assert_close(under_way.step([0, 1, 2], last), whole[[first + step for first in firsts]],
                                   atol=1e-12, rtol=0)
        last = [target[step] for target in TARGETS]


@pytest.mark.parametrize(("cell", "attention"), [("lstm", "bahdanau"), ("gru", "general")])
def test_gradients_are_those_of_finite_differences(cell, attention):
    model, batch = double(cell=cell, attention=attention, depth=2), batch_of()
    rows, targets = Split(batch.segments).is_target, batch.targets

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(logits_of(model, batch), targets[rows])

    loss().backward()
    for name, weight in model.named_parameters():
        place = int(weight.grad.abs().argmax())
        with torch.no_grad():
            flat = weight.view(-1)
            flat[place] += 1e-6
            above = float(loss())
            flat[place] -= 2e-6
            below = float(loss())
            flat[place] += 1e-6
        assert float(weight.grad.view(-1)[place]) == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_an_encoder_is_that_of_torch(cell):
    """With the same numbers torch's own cells give the same states; gates stand in the same order."""
    model = double(cell=cell)
    theirs = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](12, 8, bidirectional=True).double()
    with torch.no_grad():
        for way, end in enumerate(("", "_reverse")):
            for ours, name in ((model.encoder[0][way].input, "ih"), (model.encoder[0][way].state, "hh")):
                ours.bias.uniform_(-1, 1)
                getattr(theirs, f"weight_{name}_l0{end}").copy_(ours.weight)
                getattr(theirs, f"bias_{name}_l0{end}").copy_(ours.bias)
    read = model.read(torch.tensor([i for source in SOURCES for i in source]), roots([len(s) for s in SOURCES]))
    for row, source in enumerate(SOURCES):
        expected, _ = theirs(model.embedded(torch.tensor(source)))
        torch.testing.assert_close(read.states[row, :len(source)], expected)
        assert read.hidden[row].tolist() == [place >= len(source) for place in range(18)]


def test_additive_attention_by_hand_and_padding_weighs_nothing():
    query, keys, v = torch.tensor([[0.5]]), torch.tensor([[[0.5], [-0.5], [3.0]]]), torch.tensor([2.0])
    scores = additive_scores(query, keys, v)
    assert scores.tolist()[0] == pytest.approx([2 * 0.76159416, 0.0, 2 * 0.99817790], abs=1e-6)
    context, weights = attended(scores, keys, torch.tensor([[False, False, True]]))
    share = 1 / (1 + torch.tensor(-2 * 0.76159416).exp().item())
    assert weights[0].tolist() == pytest.approx([share, 1 - share, 0.0], abs=1e-6)
    assert context[0].tolist() == pytest.approx([share - 0.5], abs=1e-6)


def test_a_bf16_step_is_near_the_fp32_one_and_is_the_same_again():
    model, batch = RNN(RNNConfig(vocabulary=31, width=16, hidden=32)), batch_of()
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.bfloat16):
        model.compute = dtype
        loss, _ = causal_lm(model, batch)
        found.append((loss.item(), torch.autograd.grad(loss, model.cells[0].state.weight)[0]))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.01) and found[1][0] == found[2][0]
    assert torch.equal(found[1][1], found[2][1])
    cosine = torch.nn.functional.cosine_similarity(found[0][1].flatten(), found[1][1].flatten(), 0)
    assert cosine > 0.99


def test_a_folder_keeps_everything(tmp_path):
    model = RNN(RNNConfig(vocabulary=31, width=12, hidden=16, cell="lstm", attention="dot", tied=False, depth=2))
    save_seq2seq(model, tmp_path, eos=1)
    again = load_seq2seq(tmp_path)
    assert again.config == model.config
    assert torch.equal(logits_of(model, batch_of()), logits_of(again, batch_of()))


def reversals(count: int, seed: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randint(2, 12, (int(torch.randint(4, 7, (1,), generator=generator)),), generator=generator).tolist()
            for _ in range(count))
    return [Pair([*row, 1], [*row[::-1], 1]) for row in rows]


def learned(attention: str) -> float:
    """The share of unseen rows that a small network turns round rightly after 200 steps."""
    model = RNN(RNNConfig(vocabulary=12, width=32, hidden=48, attention=attention))
    state = fresh(model, OptimizerConfig(lr=1e-2, beta2=0.98, weight_decay=0.0, warmup=0.1), steps=200)
    stream = paired(reversals(2000, 0), start=0, examples=32, micro_tokens=4096, seed=0)
    for step in range(200):
        train_step(state, stream(step), causal_lm, 1.0)
    asked = reversals(60, 1)
    found = written(model, [pair.source for pair in asked], ends={1}, max_tokens=12)
    best = beamed(model, [pair.source for pair in asked], ends={1}, max_tokens=12, beams=3)
    right = sum([*ids, 1] == pair.target for ids, pair in zip(found, asked, strict=True)) / len(asked)
    assert sum([*beams[0].ids, 1] == pair.target for beams, pair in zip(best, asked, strict=True)) / 60 >= right - 0.05
    return right


def test_attention_turns_rows_round_and_without_it_a_state_is_not_enough():
    assert learned("bahdanau") > 0.9 > 0.5 > learned("none")
