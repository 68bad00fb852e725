"""Numbers in 8 bits: blocks of 256 values, each divided by its largest, then the nearest of 256 codes.

The codes are dense near zero and sparse near one: an exponent of as many decades as there are leading zero bits, and
what is left of the byte as a linear fraction (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization").
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 256


def dynamic_map(*, signed: bool, exponents: int = 7) -> Tensor:
    """The 256 codes in order, from about -1 (or 0) to 1: decade i of `exponents` holds 2^i (or 2^(i+1)) a sign."""
    values = [0.0, 1.0]
    for i in range(exponents):
        edges = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        decade = (10.0 ** (i + 1 - exponents) * (edges[:-1] + edges[1:]) / 2).tolist()
        values += decade + ([-x for x in decade] if signed else [])
    return torch.tensor(sorted(values))


class Codes:
    """256 codes and how to find the nearest: a table by the leading 16 bits of a number, then one comparison.

    A binary search takes three times as long on a CPU; both give the same code, since 2^16 cells are so narrow
    that hardly a cell holds a border between codes, and none holds two.
    """

    def __init__(self, values: Tensor):
        self.values = values
        self.borders = pad((values[1:] + values[:-1]) / 2, (0, 1), value=torch.inf)      # above code i
        cells = torch.arange(2**16, dtype=torch.int32, device=values.device) << 16
        lowest = torch.minimum(cells.view(torch.float32), (cells | 0xFFFF).view(torch.float32)).nan_to_num(0.0)
        self.first = torch.bucketize(lowest, self.borders[:-1]).int()

    def nearest(self, x: Tensor) -> Tensor:
        """The number of the code nearest to each value of x, fp32 in [-1, 1]; the lower of two equally near."""
        code = self.first[(x.view(torch.int32) >> 16) & 0xFFFF]
        return code + (x > self.borders[code])

    def quantised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Flat x as one byte a value and one scale a block of `BLOCK`, the last of which may be short.

        With unsigned codes nothing becomes zero, so that what is divided by never vanishes.
        """
        blocks = pad(x, (0, -len(x) % BLOCK)).view(-1, BLOCK)
        scales = blocks.abs().amax(1)
        code = self.nearest(blocks / scales.clamp(min=torch.finfo(x.dtype).tiny)[:, None])
        return code.clamp_(min=int(self.values[0] == 0)).flatten()[:len(x)].to(torch.uint8), scales

    def restored(self, code: Tensor, scales: Tensor) -> Tensor:
        """What `quantised` took apart, as nearly as 8 bits tell."""
        blocks = pad(self.values[code.int()], (0, -len(code) % BLOCK)).view(-1, BLOCK)
        return (blocks * scales[:, None]).flatten()[:len(code)]
