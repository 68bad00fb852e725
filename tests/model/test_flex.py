"""FlexAttention sees what the dense mask says. Its kernels are a GPU's; here its mask and its eager form are run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bloomery.model.dot_product import PLAIN, Scoring
from bloomery.model.flex import TILE, block_mask, flex, mask_of
from bloomery.model.forest import DenseForest, Segments, dense_mask, roots


@st.composite
def forests(draw) -> Segments:
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any))
    parents = [draw(st.integers(-1, run - 1)) for run in range(len(lengths))]
    return Segments(roots(lengths).start, torch.tensor(parents, dtype=torch.int32), draw(st.booleans()))


@given(forests(), st.sampled_from([None, 1, 4]))
@settings(max_examples=100, deadline=None)
def test_the_mask_function_is_the_dense_mask(segments, window):
    place = torch.arange(segments.length)
    sees = mask_of(segments.paths, window)(None, None, place[:, None], place)
    assert torch.equal(sees, dense_mask(segments, window))


@pytest.mark.parametrize("scoring", [PLAIN, Scoring(scale=0.4), Scoring(window=6), Scoring(softcap=1.3),
                                     Scoring(scale=0.5, window=50, softcap=2.0)], ids=str)
@torch.no_grad()
def test_flex_attention_equals_the_oracle(scoring):
    """150 tokens fill more than one tile, and not the second; two heads of queries read one of keys."""
    segments = Segments(roots([40, 30, 20, 50, 10]).start, torch.tensor([-1, 0, 0, -1, 2], dtype=torch.int32))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(150, heads, 16, generator=generator) for heads in (4, 2, 2))
    mask = block_mask(segments.paths, scoring.window, q.device)
    assert mask.seq_lengths == (2 * TILE, 2 * TILE)
    got = flex(q, k, v, mask, scoring)
    torch.testing.assert_close(got, DenseForest(segments).attend(0, q, k, v, scoring), atol=1e-5, rtol=1e-5)
