"""8-bit moments: the nearest codes, blocks that do not know each other, and steps close to those of AdamW."""

import pytest
import torch

from bloomery.model.blockwise import BLOCK, Codes, dynamic_map
from bloomery.train.optim import OptimizerConfig, adamw
from bloomery.train.paged import MOMENTS, PIECE, AdamW8bit


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_finds_what_a_search_finds(signed):
    values = dynamic_map(signed=signed)
    codes = Codes(values)
    small = torch.logspace(-9, 0, 50_000)
    x = torch.cat([values, (values[1:] + values[:-1]) / 2, small, -small if signed else small, torch.zeros(1)])
    assert codes.nearest(x).equal(torch.bucketize(x, (values[1:] + values[:-1]) / 2).int())
    assert values[codes.nearest(values).long()].equal(values)


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
def test_what_comes_back_is_near_and_blocks_have_their_own_scale(length):
    codes, x = Codes(dynamic_map(signed=True)), randn(length)
    x[BLOCK:] *= 1e-6                                           # another block: no less exact for that
    code, scales = codes.quantised(x)
    again = codes.restored(code, scales)
    assert code.dtype == torch.uint8 and len(code) == length and len(scales) == -(-length // BLOCK)
    largest = scales.repeat_interleave(BLOCK)[:length]
    assert ((again - x).abs() <= 0.0073 * largest).all()        # half of the widest gap between codes


def test_zeros_stay_zero_and_unsigned_codes_never_vanish():
    signed, unsigned = (Codes(dynamic_map(signed=s)) for s in (True, False))
    x = torch.zeros(2 * BLOCK)
    assert signed.restored(*signed.quantised(x)).eq(0).all()
    x[0] = 1.0
    assert unsigned.restored(*unsigned.quantised(x))[:BLOCK].gt(0).all()


def trained(optimizer_of, *, steps: int = 60) -> tuple[torch.Tensor, float]:
    """A least-squares problem, badly scaled; the weights reached and their loss."""
    inputs, wanted = randn(256, 64, seed=1) * torch.logspace(0, -1, 64), randn(256, 80, seed=2)
    weight = torch.nn.Parameter(torch.zeros(80, 64))
    optimizer = optimizer_of([weight])
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (inputs @ weight.T - wanted).square().mean()
        loss.backward()
        optimizer.step()
    return weight.detach(), float(loss.detach())


def test_it_learns_what_adamw_learns():
    config = OptimizerConfig(lr=0.02, weight_decay=0.1)
    exact, target = trained(lambda p: adamw(p, config))
    ours, loss = trained(lambda p: AdamW8bit(p, lr=0.02, weight_decay=0.1))
    assert target < 0.9 and loss == pytest.approx(target, rel=2e-3)
    assert float((ours - exact).norm() / exact.norm()) < 0.05


def test_the_first_step_is_adamw_s_up_to_the_codes():
    p, q = (torch.nn.Parameter(randn(70, 300)) for _ in range(2))
    p.grad = q.grad = randn(70, 300, seed=3)
    AdamW8bit([p], lr=0.1, weight_decay=0.5).step()
    adamw([q], OptimizerConfig(lr=0.1, weight_decay=0.5)).step()
    assert float((p - q).detach().abs().max()) < 1e-6           # m and v are not yet rounded when they are used


def test_a_weight_whose_gradient_stops_does_not_run_away():
    """With v itself in 8 bits its code would be zero here and the step m / eps."""
    p = torch.nn.Parameter(torch.zeros(2, BLOCK))
    optimizer = AdamW8bit([p], lr=1e-3, weight_decay=0.0)
    gradient = torch.full((2, BLOCK), 1e-5)
    gradient[:, 0] = 1.0
    for step in range(20):
        p.grad = gradient * (step < 2)
        optimizer.step()
    assert float(p.detach().abs().max()) < 20e-3


def test_pieces_are_no_borders(monkeypatch):
    """A matrix of more than one piece moves as it does in one."""
    def moved() -> torch.Tensor:
        p = torch.nn.Parameter(randn(37, 100))
        optimizer = AdamW8bit([p], lr=0.1)
        for step in range(3):
            p.grad = randn(37, 100, seed=step)
            optimizer.step()
        return p.detach()

    whole = moved()
    monkeypatch.setattr("bloomery.train.paged.PIECE", 2 * BLOCK)
    assert PIECE > 3700 and moved().equal(whole)


def test_moments_take_about_two_bytes_a_weight():
    p = torch.nn.Parameter(randn(64, 512))
    p.grad = randn(64, 512, seed=1)
    optimizer = AdamW8bit([p], lr=0.1)
    optimizer.step()
    assert sum(optimizer.state[p][key].nbytes for key in MOMENTS) == p.numel() * (2 + 8 / BLOCK)


def test_paging_without_a_gpu_is_said_once_and_changes_nothing(capsys):
    p = torch.nn.Parameter(randn(70, 300))
    optimizer = AdamW8bit([p], lr=0.1, paged=True)
    assert capsys.readouterr().err.count("optimizer.paged does nothing without a GPU") == 1 and not optimizer.paged
