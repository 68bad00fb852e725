"""Sixteen numbers at a time: what LLVM does not find by itself in the loops of a compiled kernel (numba).

`LANES` fp32 numbers are one register of AVX-512, two of AVX2; LLVM splits them as the machine at hand needs.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
HALF, WORD, LONG = ir.IntType(16), ir.IntType(32), ir.IntType(64)
VECTOR, WORDS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(WORD, LANES)
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)


@intrinsic
def dots(typing_context, out, place, q, keys, first):
    """out[place:place + 16] = q . k of 16 keys (C, E) from the `first` on; E is a multiple of 16.

    Partial sums of all the keys are added at once: a tree of 15 additions, where sums within a register would be 64.
    """
    def code(context, builder, signature, values):
        out, q, keys = (context.make_array(signature.args[i])(context, builder, values[i]) for i in (0, 2, 3))
        width, fma = builder.extract_value(q.shape, 0), fused(builder)
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in range(LANES)]             # LLVM makes them registers
        for one in sums:
            builder.store(ZEROS, one)
        with cgutils.for_range(builder, builder.sdiv(width, LONG(LANES))) as loop:
            at = builder.mul(loop.index, LONG(LANES))
            part = load(builder, q, at)
            for j, one in enumerate(sums):
                row = builder.mul(width, builder.add(values[4], LONG(j)))
                key = load(builder, keys, builder.add(row, at))
                builder.store(builder.call(fma, [part, key, builder.load(one)]), one)
        level = [builder.load(one) for one in sums]
        while len(level) > 1:
            level = [neighbours(builder, *level[i:i + 2]) for i in range(0, len(level), 2)]
        store(builder, level[0], out, values[1])
        return context.get_dummy_value()

    return types.void(out, types.int64, q, keys, types.int64), code


@intrinsic
def blend(typing_context, total, weights, place, rows, first):
    """total (E,) += weights[place:place + 16] times 16 rows (C, E) from the `first` on; E is a multiple of 16."""
    def code(context, builder, signature, values):
        total, weights, rows = (context.make_array(signature.args[i])(context, builder, values[i]) for i in (0, 1, 3))
        width, fma = builder.extract_value(total.shape, 0), fused(builder)
        own = [spread(builder, weights, builder.add(values[2], LONG(j))) for j in range(LANES)]
        with cgutils.for_range(builder, builder.sdiv(width, LONG(LANES))) as loop:
            at = builder.mul(loop.index, LONG(LANES))
            sums = [load(builder, total, at), ZEROS]                                    # two, for neither to wait
            for j, weight in enumerate(own):
                row = builder.mul(width, builder.add(values[4], LONG(j)))
                sums[j % 2] = builder.call(fma, [weight, load(builder, rows, builder.add(row, at)), sums[j % 2]])
            store(builder, builder.fadd(*sums), total, at)
        return context.get_dummy_value()

    return types.void(total, weights, types.int64, rows, types.int64), code


# --- sixteen numbers of an array, from element `at` on ----------------------------------------------------------------

def load(builder: ir.IRBuilder, array: object, at: ir.Value) -> ir.Value:
    """In fp32; 16-bit integers are bfloat16 by their bits."""
    short = array.data.type.pointee == HALF
    kind = ir.VectorType(HALF, LANES) if short else VECTOR
    found = builder.load(builder.bitcast(builder.gep(array.data, [at]), kind.as_pointer()), align=2 if short else 4)
    if not short:
        return found
    return builder.bitcast(builder.shl(builder.zext(found, WORDS), ir.Constant(WORDS, [16] * LANES)), VECTOR)


def store(builder: ir.IRBuilder, numbers: ir.Value, array: object, at: ir.Value) -> None:
    builder.store(numbers, builder.bitcast(builder.gep(array.data, [at]), VECTOR.as_pointer()), align=4)


def spread(builder: ir.IRBuilder, array: object, at: ir.Value) -> ir.Value:
    """One number, sixteen times."""
    one = builder.insert_element(ZEROS, builder.load(builder.gep(array.data, [at])), WORD(0))
    return builder.shuffle_vector(one, ZEROS, ir.Constant(WORDS, [0] * LANES))


def neighbours(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Sums of neighbours: of x in the first half, of y in the second."""
    even, odd = (builder.shuffle_vector(x, y, ir.Constant(WORDS, [*range(first, 2 * LANES, 2)])) for first in (0, 1))
    return builder.fadd(even, odd)


def fused(builder: ir.IRBuilder) -> ir.Value:
    """a b + c of sixteen numbers, rounded once."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
