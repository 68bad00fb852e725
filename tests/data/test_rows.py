"""Rows: every token is a target once, documents stay apart where they should, and packed is the same as single."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bloomery.data.rows import PACKINGS, batch_of, cut, documents, masked, ranges
from bloomery.data.shards import Shard
from bloomery.data.stream import Domain, TokenStream
from bloomery.data.validation import document_runs
from bloomery.model.config import ModelConfig
from bloomery.model.transformer import Transformer
from bloomery.train.objective import total_nll

DOCUMENTS = st.lists(st.lists(st.integers(1, 99), max_size=40), min_size=1, max_size=12)
EOS = 0


def shard(texts: list[list[int]], eos: int | None = EOS) -> Shard:
    flat = np.array([token for ids in texts for token in [*ids, EOS]], dtype=np.uint16)
    lengths = np.array([len(ids) for ids in texts])
    return Shard(flat, np.cumsum(lengths + 1), 2 * lengths, eos, 100)


def every_row(packing: str, held: Shard, context: int) -> list:
    rows = PACKINGS[packing](held, context)
    return [batch_of([(held, rows.runs(np.array([row])))]) for row in range(rows.count)]


@given(texts=DOCUMENTS, context=st.integers(1, 16))
def test_windows_hold_the_same_tokens_whether_masked_or_not(texts, context):
    held = shard(texts)
    for whole, apart in zip(every_row("concatenated", held, context), every_row("masked", held, context), strict=True):
        assert whole.ids.tolist() == apart.ids.tolist() and whole.targets.tolist() == apart.targets.tolist()
        assert len(whole.segments.runs) == 1 and apart.count == context


@given(texts=DOCUMENTS, context=st.integers(1, 16), packing=st.sampled_from(["masked", "documents"]))
def test_no_run_goes_beyond_the_end_of_a_document(texts, context, packing):
    """An end-of-text is read only where a run begins, and is the last thing a run predicts."""
    for batch in every_row(packing, shard(texts), context):
        for first, end in batch.segments.runs:
            assert EOS not in batch.ids[first + 1:end].tolist() and EOS not in batch.targets[first:end - 1].tolist()
            assert batch.positions[first:end].tolist() == list(range(end - first))
            assert batch.ids[first + 1:end].tolist() == batch.targets[first:end - 1].tolist()


@given(texts=DOCUMENTS, context=st.integers(1, 16))
def test_packed_documents_are_the_documents(texts, context):
    """The same runs as validation makes of every document, in some order, in rows that are not too long."""
    held = shard(texts)
    rows = every_row("documents", held, context)
    runs = [(batch.ids[a:b].tolist(), batch.targets[a:b].tolist()) for batch in rows for a, b in batch.segments.runs]
    expected = [(run.ids, run.targets) for i in range(len(texts)) for run in document_runs(held, i, context)]
    assert sorted(runs) == sorted(expected)
    assert all(len(batch.ids) <= context for batch in rows)
    assert documents(held, context).fill == pytest.approx(len(held.tokens) / (len(rows) * context))


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_loss_is_that_of_its_runs_one_by_one(packing):
    """In float64 to the last digits; and it matters: joined documents have another loss."""
    rng = np.random.default_rng(0)
    held = shard([rng.integers(1, 20, size=n).tolist() for n in (3, 9, 1, 6, 2, 7)])
    model = Transformer(ModelConfig(vocabulary=20, context=64, depth=1, width=16, heads=2, kv_heads=1, head_width=8,
                                    hidden=32), seed=1, compute=torch.float64).double()
    first, last = PACKINGS[packing](held, 33).runs(np.array([0]))
    alone = [batch_of([(held, (first[i:i + 1], last[i:i + 1]))]) for i in range(len(first))]
    packed, single = total_nll(model, every_row(packing, held, 33)[:1]), total_nll(model, alone)
    assert packed == pytest.approx(single, abs=1e-9) and len(alone) == {"concatenated": 1, "masked": 6}.get(packing, 5)
    assert (packing == "concatenated") == (packed == total_nll(model, every_row("concatenated", held, 33)[:1]))


def test_what_no_end_of_text_tells_apart_is_one_document():
    held = Shard(np.arange(10, dtype=np.uint16), np.array([10]), None, None, 10)
    rows = documents(held, 4)
    found = sorted(batch_of([(held, rows.runs(np.array([i])))]).targets.tolist() for i in range(rows.count))
    assert found == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]           # nothing predicts the first


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), max_size=8), st.integers(1, 12))
def test_cutting_keeps_every_token_in_order(pairs, longest):
    first = np.array([a for a, _ in pairs], np.int64)
    last = first + np.array([n for _, n in pairs], np.int64)
    begin, end = cut((first, last), longest)
    assert ranges(begin, end).tolist() == [t for a, b in zip(first, last, strict=True) for t in range(a, b)]
    assert len(begin) == 0 or (end - begin).max() <= longest


def test_cuts_of_a_shorter_context_keep_the_tokens_of_a_step():
    held = shard([list(range(1, 90)), list(range(1, 60)), [7] * 50])
    rows = masked(held, 16)
    streams = [TokenStream([Domain("", held, rows)], rows=4, micro_rows=3, seed=1, longest=longest)
               for longest in (None, lambda step: 4)]
    whole, short = (stream(2) for stream in streams)
    assert whole.counts == short.counts == [48.0, 16.0] and whole.count == 64
    assert [b.targets.tolist() for b in whole] == [b.targets.tolist() for b in short]
    assert max(end - first for batch in short for first, end in batch.segments.runs) == 4
