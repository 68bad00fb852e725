"""Data order: a bijection for every n and key, each sample once an epoch, and nothing remembered between steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.data.rows import concatenated
from bloomery.data.shards import Shard
from bloomery.data.stream import Domain, MicroBatches, TokenStream, doubling, permute, samples, windows


@given(n=st.integers(1, 3000), key=st.integers(0, 2**70))
def test_every_permutation_is_a_bijection(n, key):
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 255, 256, 257, 65_535, 65_537])
def test_bijections_at_the_edges_of_powers_of_two(n):
    assert np.array_equal(np.sort(permute(np.arange(n), n, 7)), np.arange(n))


def test_any_position_of_a_huge_permutation_can_be_asked_for():
    n = 10**12
    found = permute(np.array([0, 1, n - 1, 123_456_789_012]), n, key=3)
    assert len(set(found.tolist())) == 4 and found.min() >= 0 and found.max() < n


def test_neighbours_are_torn_apart():
    """Neither the identity nor a shift: successive differences look random."""
    order = permute(np.arange(10_000), 10_000, key=1)
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05
    assert len(set(np.diff(order).tolist())) > 5000


@given(n=st.integers(1, 200), size=st.integers(1, 64), seed=st.integers(0, 5))
def test_every_sample_comes_once_an_epoch(n, size, seed):
    steps = -(-3 * n // size)
    seen = np.concatenate([samples(step, size, n, seed) for step in range(steps)])
    for epoch in range(3):
        assert np.array_equal(np.sort(seen[epoch * n:(epoch + 1) * n]), np.arange(n))


def test_a_step_depends_on_nothing_but_itself():
    forwards = [samples(step, 5, 17, seed=2) for step in range(10)]
    backwards = [samples(step, 5, 17, seed=2) for step in reversed(range(10))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_epochs_and_seeds_have_their_own_order():
    first, second = samples(0, 50, 50, seed=0), samples(1, 50, 50, seed=0)
    assert not np.array_equal(first, second) and not np.array_equal(first, samples(0, 50, 50, seed=1))


def test_known_order_never_changes():
    """A checkpoint of an earlier version goes on with the same data."""
    assert permute(np.arange(8), 8, key=0).tolist() == [2, 0, 1, 6, 7, 3, 4, 5]
    assert samples(2, 6, 10, seed=4).tolist() == [7, 2, 8, 3, 1, 4]


def shard(tokens: int) -> Shard:
    return Shard(np.arange(tokens, dtype=np.uint16), np.array([tokens]), np.array([1]), 0, 2**16)


def test_windows_predict_every_token_once_an_epoch():
    stream = windows(shard(101), context=10, rows=5, micro_rows=2, seed=0)
    batches = [*stream(0), *stream(1)]
    assert sorted(t for batch in batches for t in batch.targets.tolist()) == list(range(1, 101))
    assert [len(batch.segments.runs) for batch in stream(0)] == [2, 2, 1]
    for batch in batches:
        assert (batch.targets == batch.ids + 1).all() and batch.count == len(batch.ids)
        assert batch.positions.tolist() == list(range(10)) * len(batch.segments.runs)


def test_micro_rows_do_not_change_what_a_step_reads():
    whole, split = (windows(shard(500), context=7, rows=8, micro_rows=m, seed=3)(5) for m in (8, 3))
    assert whole[0].ids.tolist() == [i for batch in split for i in batch.ids.tolist()]


# --- domains and micro-batches ------------------------------------------------------------------------------------

def mixed(rows: int = 8, micro_rows: int = 3, **named: tuple[int, float]) -> TokenStream:
    """Domains of so many tokens and such a share; the tokens of the n-th begin at 1000 n."""
    domains = []
    for number, (name, (size, share)) in enumerate(named.items()):
        held = Shard(np.arange(1000 * number, 1000 * number + size, dtype=np.uint16), np.arange(20, size + 1, 20),
                     None, 0, 2**16)
        domains.append(Domain(name, held, concatenated(held, 10), share))
    return TokenStream(domains, rows=rows, micro_rows=micro_rows, seed=3)


def windows_read(stream: TokenStream, steps: int) -> dict[int, list[int]]:
    """Which windows of each domain were read, in order; a window is known by its first token."""
    found: dict[int, list[int]] = {}
    for step in range(steps):
        for batch in stream(step):
            for first, _ in batch.segments.runs:
                domain, place = divmod(int(batch.ids[first]), 1000)
                found.setdefault(domain, []).append(place // 10)
    return found


def test_every_domain_counts_its_own_epochs():
    """A small domain begins its third epoch while a large one is in its first: each window once an epoch."""
    stream = mixed(web=(801, 0.75), code=(101, 0.25))
    found = windows_read(stream, 12)
    assert len(found[0]) == 72 and len(set(found[0])) == 72 and len(found[1]) == 24
    assert sorted(found[1][:10]) == sorted(found[1][10:20]) == list(range(10)) and found[1][:10] != found[1][10:20]
    assert stream.drawn(12) == {"web": (72, 0.9), "code": (24, 2.4)}


def test_the_order_of_a_domain_does_not_depend_on_the_others():
    one, other = mixed(web=(801, 0.5), code=(101, 0.5)), mixed(web=(801, 0.25), code=(101, 0.75))
    assert windows_read(one, 4)[0][:8] == windows_read(other, 4)[0][:8]
    assert windows_read(mixed(web=(801, 1.0)), 1)[0] != windows_read(mixed(code=(801, 1.0)), 1)[0]


def test_a_step_can_say_which_documents_it_reads():
    stream = mixed(web=(801, 0.75), code=(101, 0.25))
    found = stream.documents(5)
    read = windows_read(TokenStream(stream.domains, rows=8, micro_rows=8, seed=3), 6)
    expected = {d for place in read[0][-6:] for d in ((place * 10 + 1) // 20, (place * 10 + 10) // 20)}
    assert set(found) == {"web", "code"} and found["web"] == sorted(expected)


def test_micro_batches_are_built_when_asked_for_and_once():
    built = []
    batches = MicroBatches(lambda index: built.append(index) or f"batch {index}", [1.0, 2.0, 4.0])
    assert (len(batches), batches.count, built) == (3, 7.0, [])
    assert batches[-1] == batches[2] == "batch 2" and built == [2]
    assert batches[:2] == ["batch 0", "batch 1"] and list(batches)[0] == "batch 0" and built == [2, 0, 1]
    with pytest.raises(IndexError):
        batches[3]


def test_the_counts_of_micro_batches_are_those_of_their_batches():
    step = mixed(web=(801, 0.75), code=(101, 0.25))(1)
    assert step.counts == [batch.count for batch in step] == [30.0, 30.0, 20.0]


def test_the_context_doubles_to_its_full_length():
    longest = doubling(512, until=30)
    assert [longest(step) for step in (0, 9, 10, 19, 20, 29, 30, 1000)] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert doubling(512, until=0)(0) == 512 and doubling(3, until=3)(0) == 1
