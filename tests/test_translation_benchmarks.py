"""The comparison of encoder-decoders: real pairs as ids, floors, and steps that transformers takes too."""

import gzip
import json

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import T5ForConditionalGeneration

from benchmarks import __main__ as command
from benchmarks import seq2seq, translating, tuning
from benchmarks.harness import PASSED, Options, equal_steps

ENGLISH = ["Two men are talking.", "A dog runs.", "A girl in a red coat is reading a book.", "Three birds."] * 3
GERMAN = ["Zwei Männer reden.", "Ein Hund rennt.", "Ein Mädchen im roten Mantel liest ein Buch.", "Drei Vögel."] * 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "multi30k").mkdir()
    for side, texts in zip(seq2seq.SIDES, (ENGLISH, GERMAN), strict=True):
        (folder / "multi30k" / f"train.{side}.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    return folder


@pytest.fixture(scope="module")
def spec(data, tmp_path_factory) -> dict:
    place = tmp_path_factory.mktemp("model")
    tokenizer, pairs = seq2seq.captions(data, vocabulary=280)
    seq2seq.export(seq2seq.shape(tokenizer, quick=True), place, eos=tokenizer.eos)
    (place / "pairs.json").write_text(json.dumps(pairs))
    return {"folder": str(place), "pairs": str(place / "pairs.json"), "precision": "fp32",
            **seq2seq.work(pairs, steps=6, rows=2)}


def test_pairs_are_lines_with_their_end(data):
    tokenizer, pairs = seq2seq.captions(data, vocabulary=280)
    assert len(pairs) == 12 and all(side[-1] == tokenizer.eos for pair in pairs for side in pair)
    assert [tokenizer.decode(side[:-1]) for side in pairs[2]] == [ENGLISH[2], GERMAN[2]]
    work = seq2seq.work(pairs, steps=2, rows=3)
    assert work["prompts"] == [len(source) for source, _ in pairs[:6]] and len(work["completions"]) == 6


def test_ours_takes_the_steps_that_transformers_takes_in_padded_rows(spec):
    model = T5ForConditionalGeneration.from_pretrained(spec["folder"], dtype=torch.float32)
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) is wanted] for wanted in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}],
                                  lr=tuning.RATE, betas=(0.9, 0.95), eps=1e-8)
    found, peer = translating.pairs(spec), {"losses": [], "grad_norms": []}
    for step in tuning.order(spec):
        sources, targets = ([torch.tensor(found[i][side]) for i in step] for side in (0, 1))
        loss = model(input_ids=pad_sequence(sources, True), labels=pad_sequence(targets, True, -100),
                     attention_mask=pad_sequence([torch.ones(len(ids)) for ids in sources], True)).loss
        optimizer.zero_grad()
        loss.backward()
        peer["losses"].append(float(loss.detach()))
        peer["grad_norms"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
    assert equal_steps(translating.ours(spec), peer) == PASSED
    other = translating.ours(spec | {"grouped": True})          # another order: the gate sees it
    assert equal_steps(other, peer).startswith("failed")


def test_the_floor_counts_padding_for_the_peer_only(spec):
    config = seq2seq.Seq2SeqConfig(**dict(seq2seq.t5(1, 8, 2, 16, v11=True, head_width=4)) | {"vocabulary": 50})
    work = {"prompts": [3, 5], "completions": [4, 2], "rows": 2}
    assert seq2seq.useful(work) == 14 / 18
    d, inner, table = 8, 8, 50 * 8
    attention, gated = 4 * d * inner + d, 3 * d * 16 + d
    encoder, decoder = attention + gated + d + 2 * d * inner, 2 * attention + gated + d - 2 * d * inner

    def by_hand(pairs: list[tuple[int, int]]) -> float:
        return sum(6 * encoder * s + 6 * (decoder + table) * t + 12 * inner * (s**2 + s * t + t**2 / 2)
                   for s, t in pairs)

    assert 14 * seq2seq.floor(config, work, padded=False) == pytest.approx(by_hand([(3, 4), (5, 2)]))
    assert 14 * seq2seq.floor(config, work, padded=True) == pytest.approx(by_hand([(5, 4), (5, 4)]))


def test_without_texts_or_a_trainer_nothing_is_compared(monkeypatch, data, tmp_path):
    rows = list(command.CASES["seq2seq"](Options(pairs=1, quick=True, data=tmp_path)))
    assert [row.name for row in rows] == ["seq2seq", "seq2seq, default"]
    assert all(row.gate.startswith("not run: no multi30k") and row.ratio is None for row in rows)
    monkeypatch.setattr(seq2seq, "fresh", lambda *given, **named: {"not_run": "No module named 'accelerate'"})
    rows = list(command.CASES["seq2seq"](Options(pairs=1, quick=True, data=data)))
    assert [row.gate for row in rows] == ["not run: No module named 'accelerate'"] * 2
