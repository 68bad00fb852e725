"""What compiled kernels share: numbers as their bits, and functions that any thread can call (numba).

A bfloat16 is the upper half of an fp32 number: uint16 to numpy, which knows no such type.
"""

from collections.abc import Callable

import numpy as np
import torch
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic, overload

FAST = {"reassoc", "contract", "nsz"}                           # sums may be taken 16 at a time


@intrinsic
def as_float(typing_context, bits):
    """The fp32 number of 32 bits."""
    def code(context, builder, signature, values):
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.uint32), code


@intrinsic
def bits_of(typing_context, number):
    """The 32 bits of an fp32 number."""
    def code(context, builder, signature, values):
        return builder.bitcast(values[0], ir.IntType(32))

    return types.uint32(types.float32), code


def widen(x):
    """An element in fp32: itself, or the number whose upper half its bits are."""


@overload(widen, inline="always")
def widened(x):
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: as_float(np.uint32(np.uint32(x) << np.uint32(16)))


def narrow(x, like):
    """An fp32 number as an element like another: itself, or the bits of the nearest bfloat16, of two the even one."""


@overload(narrow, inline="always")
def narrowed(x, like):
    if isinstance(like, types.Float):
        return lambda x, like: x

    def rounded(x, like):
        bits = bits_of(x)
        return np.uint16((bits + np.uint32(0x7fff) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return rounded


@intrinsic
def pointer(typing_context, address, kind):
    """An address as a pointer to numbers of a kind."""
    found = types.CPointer(kind.dtype)

    def code(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(found))

    return found(address, kind), code


def compiled(function: Callable, signature: types.Type) -> Callable:
    """A function as one of C, kept on disk where that can be written: it takes seconds once for a machine."""
    try:
        return cfunc(signature, cache=True)(function)
    except RuntimeError:                                        # nowhere to keep it
        return cfunc(signature)(function)


KINDS = {torch.bfloat16: types.uint16, torch.float32: types.float32}      # how a kernel reads a tensor's numbers
