"""Muon: updates nearly orthogonal, of the size AdamW's have, the same for a stack of matrices as for each."""

import pytest
import torch

from bloomery.train.muon import Muon, muon_update, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (30, 8), (8, 30), (1, 5)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalised(matrix[None], dtype=torch.float64)[0]
    values = torch.linalg.svdvals(made)
    big = s > 0.05 * s[0]                                       # five rounds do not lift what is nearly zero
    assert values[:int(big.sum())].min() > 0.6 and values.max() < 1.25
    inside = u.T @ made @ vh.T
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-6, rtol=0)
    assert (inside.diagonal() > 0).all()


def test_a_zero_matrix_stays_zero_and_scale_does_not_matter():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    made = orthogonalised(torch.stack((matrix * 0, matrix, matrix * 100)))
    assert made[0].eq(0).all()
    torch.testing.assert_close(made[1], made[2], atol=1e-4, rtol=0)


def moved(matrices: list[torch.Tensor], **options) -> list[torch.Tensor]:
    parameters = [torch.nn.Parameter(m.clone()) for m in matrices]
    optimizer = Muon(parameters, **({"lr": 0.1, "weight_decay": 0.0} | options))
    for step in range(3):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + p.shape[0]))
        optimizer.step()
    return [p.detach() for p in parameters]


def test_matrices_of_one_shape_move_as_each_alone():
    matrices = [torch.randn(6, 4), torch.randn(6, 4), torch.randn(4, 9)]
    together = moved(matrices)
    for matrix, expected in zip(matrices, together, strict=True):
        torch.testing.assert_close(moved([matrix])[0], expected, atol=1e-5, rtol=0)


def test_an_update_has_the_size_of_adamw_s():
    """Its root mean square is about 0.2 of the learning rate, whatever the gradient's scale."""
    for scale in (1e-4, 1.0, 1e4):
        p = torch.nn.Parameter(torch.zeros(64, 96))
        p.grad = scale * torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
        Muon([p], lr=0.1, weight_decay=0.0).step()
        assert 0.014 < float(p.detach().square().mean().sqrt()) < 0.023


def test_decay_shrinks_weights_beside_the_step():
    matrix = torch.randn(5, 5)
    p, q = (torch.nn.Parameter(matrix.clone()) for _ in range(2))
    for parameter, decay in ((p, 0.5), (q, 0.0)):
        parameter.grad = torch.ones(5, 5)
        Muon([parameter], lr=0.1, weight_decay=decay).step()
    torch.testing.assert_close(p.detach() - q.detach(), -0.05 * matrix)


def test_the_first_step_is_the_formula():
    """m = g, ahead = g + mu g, W = -lr 0.2 sqrt(max(n, m)) NewtonSchulz(ahead)."""
    gradient = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = gradient * 1.95
    x = x / (x.norm() * 1.01 + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    p = torch.nn.Parameter(torch.zeros(3, 7, dtype=torch.float64))
    p.grad = gradient.clone()
    Muon([p], lr=0.1, weight_decay=0.0, dtype=torch.float64).step()
    torch.testing.assert_close(p.detach(), -0.1 * 0.2 * 7**0.5 * x, atol=1e-9, rtol=0)


def test_matrices_within_a_matrix_are_made_orthogonal_each_by_itself():
    """Rows of q, k and v: as if they were three parameters, up to the rounding of a batched product."""
    shape, rows = (20, 16), (8, 6, 6)
    whole = torch.nn.Parameter(torch.randn(shape))
    parts = [torch.nn.Parameter(p.clone()) for p in whole.detach().split(rows)]
    whole.grad = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    for p, gradient in zip(parts, whole.grad.split(rows), strict=True):
        p.grad = gradient.clone()
    Muon([whole], lr=0.1, weight_decay=0.2, rows={whole: rows}).step()
    Muon(parts, lr=0.1, weight_decay=0.2).step()
    torch.testing.assert_close(whole.detach(), torch.cat([p.detach() for p in parts]), atol=1e-6, rtol=0)
    together = torch.nn.Parameter(torch.zeros(shape))
    together.grad = whole.grad
    Muon([together], lr=0.1).step()
    q = muon_update(whole.grad[None], rows=rows)[0, :8]
    assert torch.linalg.svdvals(q).min() > 0.6 > torch.linalg.svdvals(together.detach()[:8]).min()


def test_polar_express_comes_nearer_to_one():
    """From singular values over three decades; beyond its table the last polynomial is repeated and comes nearer."""
    spread = torch.logspace(0, -2.5, 12)
    matrix = torch.diag(spread / spread.norm())[None]

    def away(iteration: str, rounds: int, dtype: torch.dtype = torch.float32) -> float:
        made = orthogonalised(matrix, rounds=rounds, iteration=iteration, dtype=dtype)[0]
        return float((made.diagonal() - 1).abs().max())

    assert away("polar", 8) < away("polar", 5) < 0.16 < 0.25 < away("quintic", 5)
    assert away("polar", 5, torch.bfloat16) < 0.2
