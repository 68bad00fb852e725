"""The norm of a decoding step: that of training, a row at a time."""

import pytest
import torch

from bloomery.model.norms import RMSNorm, rounded_norm
from bloomery.model.packed import PackedNorm

norm_kernel = pytest.importorskip("bloomery.model.norm_kernel", exc_type=ImportError)


@pytest.mark.parametrize(("rows", "width"), [(1, 8), (8, 512), (70, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_the_norm_but_for_the_order_of_sums(rows, width, dtype):
    noise = torch.Generator().manual_seed(1)
    x, weight = torch.randn(rows, width, generator=noise) * 5, torch.randn(width, generator=noise).to(dtype)
    got, expected = norm_kernel.rms_norm(x, weight, 1e-5), rounded_norm(x, weight, 1e-5)[0]
    assert got.dtype == torch.bfloat16 and (got == expected).float().mean() > 0.99
    assert ((got.float() - expected.float()).abs() <= expected.float().abs() * 2**-7).all()


def test_a_row_does_not_know_its_neighbours():
    x, weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(2)), torch.rand(64)
    whole = norm_kernel.rms_norm(x, weight, 1e-6)
    assert all(whole[i:i + 1].equal(norm_kernel.rms_norm(x[i:i + 1], weight, 1e-6)) for i in range(40))


def test_zeros_stay_zeros_and_what_is_no_number_stays_none():
    x = torch.zeros(2, 16)
    x[1, 3] = torch.nan
    got = norm_kernel.rms_norm(x, torch.ones(16), 1e-6)
    assert not got[0].any() and got[1].isnan().all()


@torch.no_grad()
def test_other_dtypes_and_shapes_are_the_norm_s_own():
    norm = RMSNorm(8, 1e-6)
    norm.compute = torch.bfloat16
    twin = PackedNorm(norm, norm_kernel.rms_norm)
    for x in (torch.randn(3, 2, 8), torch.randn(3, 8).bfloat16()):
        assert twin(x).equal(norm(x))
    norm.weight.mul_(2)                                         # the weight is shared
    assert twin(torch.ones(1, 8)).eq(2).all()
