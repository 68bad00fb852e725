"""Validation counts every token and every byte exactly once, whatever the context."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.data.shards import Shard
from bloomery.data.validation import batches, corpus_bits_per_byte, document_runs, domain_metrics


def shard(documents: list[list[int]]) -> Shard:
    flat = np.array([token for ids in documents for token in [*ids, 0]], dtype=np.uint16)
    lengths = np.array([len(ids) for ids in documents])
    return Shard(flat, np.cumsum(lengths + 1), 2 * lengths, 0, 100)


DOCUMENTS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=30), min_size=1, max_size=6)


@given(documents=DOCUMENTS, context=st.integers(1, 12), size=st.integers(1, 50))
def test_every_token_is_predicted_once_from_the_one_before(documents, context, size):
    held_out = shard(documents)
    runs = [run for i in range(len(documents)) for run in document_runs(held_out, i, context)]
    assert [t for run in runs for t in run.targets] == held_out.tokens.tolist()
    assert all(len(run.ids) <= context and set(run.weights) == {1.0} for run in runs)
    made = batches(runs, size)
    assert [t for batch in made for t in batch.targets.tolist()] == held_out.tokens.tolist()
    assert all(len(batch.ids) <= max(size, context) for batch in made)
    firsts = [document_runs(held_out, i, context)[0] for i in range(len(documents))]
    assert [run.ids[0] for run in firsts] == [0] * len(documents)           # an end-of-text is read before each


@given(documents=DOCUMENTS)
def test_bits_per_byte_of_a_model_that_guesses(documents):
    """A uniform guess over 100 ids costs ln 100 a token; ends of text cost nats but are no bytes."""
    found = corpus_bits_per_byte(shard(documents), uniform, context=8)
    tokens, bytes_ = sum(len(ids) + 1 for ids in documents), sum(2 * len(ids) for ids in documents)
    assert found["val_loss"] == pytest.approx(math.log(100)) and found["val_perplexity"] == pytest.approx(100)
    assert found["val_bpb"] == pytest.approx(tokens * math.log2(100) / bytes_)


def uniform(made: list) -> tuple[float, float]:
    tokens = sum(len(batch.targets) for batch in made)
    return tokens * math.log(100), float(tokens)


@pytest.mark.parametrize(("limit", "documents"), [(1, 1), (5, 1), (6, 2), (11, 3), (1000, 3), (None, 3)])
def test_a_limit_takes_whole_documents_from_the_front(limit, documents):
    seen = []
    corpus_bits_per_byte(shard([[1] * 4, [2] * 4, [3] * 4]), lambda made: seen.extend(made) or uniform(made),
                         context=3, limit=limit)
    assert sum(len(batch.targets) for batch in seen) == 5 * documents


def test_domains_are_measured_alone_and_together_by_share():
    measured = {"web": {"val_loss": 2.0, "val_perplexity": math.exp(2), "val_bpb": 1.0},
                "code": {"val_loss": 1.0, "val_perplexity": math.exp(1), "val_bpb": 0.5}}
    found = domain_metrics(measured, {"web": 0.75, "code": 0.25})
    assert found["val_loss"] == 1.75 and found["val_bpb"] == 0.875 and found["val_perplexity"] == math.exp(1.75)
    assert found["val_bpb/web"] == 1.0 and found["val_loss/code"] == 1.0
    del measured["code"]["val_bpb"]
    assert "val_bpb" not in domain_metrics(measured, {"web": 0.75, "code": 0.25})


@pytest.mark.parametrize("stride", [1, 3, 5, 8])
def test_overlapping_runs_score_every_token_once_after_as_much_as_fits(tmp_path, stride):
    shard = Shard(np.arange(1, 24, dtype=np.uint16), np.array([23]), np.array([23]), eos=0, vocabulary=30)
    scored = []
    for run in document_runs(shard, 0, 8, stride):
        assert len(run.ids) <= 8 and run.targets == [i + 1 for i in run.ids]
        place = [k for k, weight in enumerate(run.weights) if weight]
        assert all(k >= min(8 - stride, run.targets[k] - 1) for k in place)
        scored += [run.targets[k] for k in place]
    assert scored == list(range(1, 24))
