"""RMSNorm in bfloat16 says what the definition says, outputs and gradients."""

import torch

from bloomery.model.norms import RMSNorm, RMSNormed, rms_norm

ROWS = 700              # several pieces


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def assert_near(got: torch.Tensor, exact: torch.Tensor, plain: torch.Tensor) -> None:
    """As near to the exact result as the plain operations in the same dtype are."""
    error, usual = (got.double() - exact).norm() / exact.norm(), (plain.double() - exact).norm() / exact.norm()
    assert got.shape == exact.shape and error <= 1.1 * usual + 1e-6, (float(error), float(usual))


def with_gradients(function, *inputs: torch.Tensor, seed: int = 1) -> list[torch.Tensor]:
    """Outputs, and gradients of a random weighting of them in every input."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    out = out if isinstance(out, tuple) else (out,)
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(o.shape, generator=generator).bfloat16().to(o.dtype) for o in out]
    return [*(o.detach() for o in out), *torch.autograd.grad(out, leaves, upstream)]


def compare(fused, plain, *inputs: torch.Tensor) -> None:
    exact = with_gradients(plain, *(x.double() for x in inputs))
    usual = with_gradients(plain, *inputs)
    got = with_gradients(fused, *inputs)
    for mine, true, theirs in zip(got, exact, usual, strict=True):
        assert_near(mine, true, theirs)


def test_rms_norm():
    x, weight = drawn(ROWS, 768), (1 + 0.3 * torch.randn(768, generator=torch.Generator().manual_seed(3))).bfloat16()
    compare(lambda x, w: RMSNormed.apply(x, w.float(), 1e-5), lambda x, w: rms_norm(x, w, 1e-5), x, weight)
    assert not RMSNormed.apply(torch.zeros(3, 8, dtype=torch.bfloat16), torch.ones(8), 1e-5).any()
    layer = RMSNorm(768, 1e-5)
    assert torch.equal(layer(x), RMSNormed.apply(x, layer.weight, 1e-5))
