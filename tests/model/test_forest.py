"""A forest of runs is the same as its paths read one by one: outputs and gradients, whatever its shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.data.batch import Run, forest, sequence
from bloomery.model.config import ModelConfig
from bloomery.model.dot_product import PLAIN, Scoring, attention
from bloomery.model.forest import DenseForest, Forest, Segments, dense_mask, pieces, roots
from bloomery.model.transformer import Transformer

SMALL = ModelConfig(vocabulary=23, context=64, depth=2, width=24, heads=4, kv_heads=2, head_width=6, hidden=32)

# lengths and parents: equal roots, ragged roots, siblings, nested prefixes, empty runs, one token, children far apart
SHAPES = {
    "equal roots": ([5, 5, 5], [-1, -1, -1]),
    "long equal roots": ([150, 150], [-1, -1]),
    "ragged roots": ([7, 1, 13, 4, 4, 30], [-1] * 6),
    "two answers": ([9, 4, 6], [-1, 0, 0]),
    "nested": ([3, 2, 4, 1, 5], [-1, 0, 1, 2, 1]),
    "a mixed batch": ([6, 3, 3, 11, 2, 8, 8, 1], [-1, 0, 0, -1, 3, 3, -1, 6]),
    "equal runs in a chain": ([4, 4, 4], [-1, 0, 1]),
    "an empty prompt": ([0, 3, 5, 2], [-1, 0, 0, -1]),
    "one token": ([1], [-1]),
}


def segments_of(name: str, *, causal: bool = True) -> Segments:
    lengths, parents = SHAPES[name]
    return Segments(roots(lengths).start, torch.tensor(parents, dtype=torch.int32), causal)


def random_qkv(tokens: int, dtype: torch.dtype, *, heads: int = 4, kv_heads: int = 2, width: int = 6):
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(tokens, h, width, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
            for h in (heads, kv_heads, kv_heads)]


def path_by_path(segments: Segments, q, k, v, scoring: Scoring = PLAIN):
    """The slow obvious oracle: for every run, its own queries over its ancestors' tokens and its own."""
    out = []
    for (first, end), chain in zip(segments.runs, segments.chains, strict=True):
        seen = [slice(*segments.runs[a]) for a in chain] + [slice(first, end)]
        keys, values = (torch.cat([x[s] for s in seen]) for x in (k, v))
        ago = torch.arange(len(keys) - (end - first), len(keys))[:, None] - torch.arange(len(keys))
        mask = ago >= 0 if segments.causal else torch.ones_like(ago).bool()
        if scoring.window is not None:
            mask = mask & (ago < scoring.window)
        heads_first = (x.transpose(0, 1) for x in (q[first:end], keys, values))
        out.append(attention(*heads_first, mask, scoring).transpose(0, 1))
    return torch.cat(out)


def with_gradients(attend, segments: Segments, dtype: torch.dtype, *, kv_heads: int = 2) -> list[torch.Tensor]:
    """What a way of attending gives, and the gradients of q, k and v of a random sum of it."""
    qkv = random_qkv(segments.length, dtype, kv_heads=kv_heads)
    weights = torch.randn(segments.length, 4, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))
    out = attend(*qkv)
    return [out, *torch.autograd.grad((out * weights).sum(), qkv)]


def assert_equal(results: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for got, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_both_backends_equal_path_by_path(name, dtype, tolerance, kv_heads):
    segments = segments_of(name)
    expected = with_gradients(lambda *x: path_by_path(segments, *x), segments, dtype, kv_heads=kv_heads)
    assert expected[0].isfinite().all()
    for backend in (DenseForest(segments), Forest(segments)):
        assert_equal(with_gradients(lambda *x: backend.attend(0, *x), segments, dtype, kv_heads=kv_heads),      # noqa: B023
                     expected, tolerance)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("scoring", [Scoring(scale=0.3), Scoring(window=1), Scoring(window=4), Scoring(softcap=1.5),
                                     Scoring(scale=0.7, window=7, softcap=2.0)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_every_way_of_scoring_equals_path_by_path(name, scoring, dtype, tolerance):
    segments = segments_of(name)
    expected = with_gradients(lambda *x: path_by_path(segments, *x, scoring), segments, dtype)
    assert expected[0].isfinite().all()
    for backend in (DenseForest(segments), Forest(segments)):
        assert_equal(with_gradients(lambda *x: backend.attend(0, *x, scoring), segments, dtype), expected,      # noqa: B023
                     tolerance)


@pytest.mark.parametrize("name", ["ragged roots", "a mixed batch", "nested", "long equal roots"])
@pytest.mark.parametrize("scoring", [PLAIN, Scoring(window=5), Scoring(softcap=3.0)], ids=str)
def test_bfloat16_is_as_near_to_fp64_as_the_definition_in_bfloat16(name, scoring):
    """A path of its own: blocks of products instead of the flash kernel, merged in fp32."""
    segments = segments_of(name)
    exact = with_gradients(lambda *x: path_by_path(segments, *(y.double() for y in x), scoring), segments,
                           torch.bfloat16)
    defined = with_gradients(lambda *x: path_by_path(segments, *x, scoring), segments, torch.bfloat16)
    got = with_gradients(lambda *x: Forest(segments).attend(0, *x, scoring), segments, torch.bfloat16)
    for mine, theirs, truth in zip(got, defined, exact, strict=True):
        error, theirs_error = ((x.double() - truth.double()).norm() / truth.double().norm() for x in (mine, theirs))
        assert error < 2 * theirs_error + 2e-3


@st.composite
def forests(draw) -> Segments:
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any))
    parents = [draw(st.integers(-1, run - 1)) for run in range(len(lengths))]
    return Segments(roots(lengths).start, torch.tensor(parents, dtype=torch.int32))


@given(forests(), st.sampled_from([None, 1, 3, 20]), st.sampled_from([None, 2.0]))
@settings(max_examples=60, deadline=None)
def test_any_forest_equals_path_by_path(segments, window, softcap):
    scoring = Scoring(window=window, softcap=softcap)
    expected = with_gradients(lambda *x: path_by_path(segments, *x, scoring), segments, torch.float64)
    assert expected[0].isfinite().all()
    assert_equal(with_gradients(lambda *x: Forest(segments).attend(0, *x, scoring), segments, torch.float64), expected,
                 1e-9)


@given(forests(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_runs_does_not_matter(segments, random):
    """Runs laid out in another order, parents still first: the same outputs, in that order."""
    left, order = set(range(len(segments.runs))), []
    while left:
        order.append(random.choice([r for r in sorted(left) if not left & set(segments.chains[r])]))
        left.remove(order[-1])
    lengths = [segments.runs[r][1] - segments.runs[r][0] for r in order]
    parents = [order.index(segments.chains[r][-1]) if segments.chains[r] else -1 for r in order]
    moved = Segments(roots(lengths).start, torch.tensor(parents, dtype=torch.int32))
    tokens = torch.cat([torch.arange(*segments.runs[r]) for r in order])
    qkv = random_qkv(segments.length, torch.float64)
    one, other = Forest(segments).attend(0, *qkv), Forest(moved).attend(0, *(x[tokens] for x in qkv))
    torch.testing.assert_close(other, one[tokens], atol=1e-12, rtol=1e-9)


def test_segments_move_to_a_device():
    segments = segments_of("nested")
    moved = segments.to("meta")
    assert moved.start.device.type == moved.parent.device.type == "meta" and moved.causal
    assert segments.to("cpu").chains == segments.chains


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "an empty prompt"])
def test_a_bidirectional_forest_sees_all_of_its_run(name):
    segments = segments_of(name, causal=False)
    q, k, v = random_qkv(segments.length, torch.float64)
    expected = path_by_path(segments, q, k, v)
    for backend in (Forest, DenseForest):
        torch.testing.assert_close(backend(segments).attend(0, q, k, v), expected, atol=1e-9, rtol=0)


def test_equal_roots_take_the_path_without_padding():
    assert Forest(segments_of("equal roots")).uniform
    for name in ("ragged roots", "equal runs in a chain", "two answers"):
        assert not Forest(segments_of(name)).uniform


def test_every_query_is_in_one_own_piece_and_little_is_padded():
    lengths = torch.randint(1, 200, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    made = pieces(roots(lengths), None, 2, 1)
    assert sorted(torch.cat([p.queries.index[p.queries.real] for p in made]).tolist()) == list(range(sum(lengths)))
    assert sum(p.queries.index.numel() for p in made) <= 1.15 * sum(lengths)


def test_the_mask_says_who_sees_whom():
    segments = Segments(torch.tensor([0, 2, 4, 5], dtype=torch.int32), torch.tensor([-1, 0, 0], dtype=torch.int32))
    assert dense_mask(segments).int().tolist() == [[1, 0, 0, 0, 0],
                                                   [1, 1, 0, 0, 0],
                                                   [1, 1, 1, 0, 0],
                                                   [1, 1, 1, 1, 0],
                                                   [1, 1, 0, 0, 1]]


def test_a_parent_must_come_before_its_children():
    with pytest.raises(ValueError, match="earlier run"):
        dense_mask(Segments(torch.tensor([0, 2, 4], dtype=torch.int32), torch.tensor([1, -1], dtype=torch.int32)))


@pytest.mark.parametrize("backend", [Forest, DenseForest])
def test_a_packed_batch_equals_its_sequences_through_the_whole_model(backend):
    model = Transformer(SMALL, seed=3, compute=torch.float64).double()
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randint(0, 23, (n,), generator=generator).tolist() for n in (9, 2, 17, 9, 33)]
    packed = forest([sequence(ids, [True] * len(ids)) for ids in sequences])
    out = model(packed.ids, packed.positions, backend(packed.segments))
    alone = []
    for ids in sequences:
        one = forest([sequence(ids, [True] * len(ids))])
        alone.append(model(one.ids, one.positions, Forest(one.segments)))
    torch.testing.assert_close(out, torch.cat(alone), atol=1e-9, rtol=0)


def test_answers_to_one_prompt_equal_two_whole_sequences_through_the_whole_model():
    """Loss and gradients of a prompt with two children are those of two sequences that each repeat the prompt."""
    prompt, answers = [1, 5, 9, 2, 7], [[3, 4, 6], [8, 8, 1, 0, 2, 11]]
    shared = forest([Run(prompt[:-1], prompt[1:], [0.0] * 4)]
                    + [Run([prompt[-1], *ids[:-1]], ids, [1.0] * len(ids), 0) for ids in answers])
    apart = forest([sequence([*prompt, *ids], [False] * 5 + [True] * len(ids)) for ids in answers])
    results = []
    for batch in (shared, apart):
        model = Transformer(SMALL, seed=4, compute=torch.float64).double()
        logits = model.logits(model(batch.ids, batch.positions, Forest(batch.segments)))
        trained = batch.weights > 0
        nll = torch.nn.functional.cross_entropy(logits[trained], batch.targets[trained], reduction="none")
        nll.sum().backward()
        results.append((nll.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-9, rtol=0)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_the_order_of_sequences_does_not_matter():
    model = Transformer(SMALL, seed=5, compute=torch.float64).double()
    runs = [sequence(list(range(n)), [True] * n) for n in (12, 3, 20, 7, 7)]
    forwards, backwards = forest(runs), forest(runs[::-1])
    out = [model(b.ids, b.positions, Forest(b.segments)).split([len(r.ids) for r in order])
           for b, order in ((forwards, runs), (backwards, runs[::-1]))]
    for one, other in zip(out[0], out[1][::-1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)
