"""What the rasteriser's kernels need beyond the arithmetic of `geodiff.raster.simd`.

Several numbers of a splat or of a block are handled at once, their count being part of a tuple's type, so that the
loops over them are unrolled and the sums stay in registers.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic

from geodiff.raster.simd import (
    LANES,
    constant,
    double,
    load_at,
    muladd,
    pointer,
    shuffle,
    single,
    splat,
    store_at,
)

_INT = ir.IntType(32)
_INTEGERS, _LONGS = ir.VectorType(_INT, LANES), ir.VectorType(ir.IntType(64), LANES)


def _polynomial(function, degree: int, low: float, high: float) -> np.ndarray:
    """Coefficients, the lowest power first, through the Chebyshev nodes."""
    fitted = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return fitted.convert(kind=np.polynomial.Polynomial).coef


def _horner(builder, kind, coefficients, x):
    value = constant(kind, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = muladd(builder, kind, value, x, constant(kind, coefficient))
    return value


@intrinsic
def exp2(typing_context, a):
    """2 ** a of float32, relative error below 4e-6 for -8 <= a <= 0; anything at all outside of it.

    The fourth power of a polynomial for 2 ** (a / 4): shorter than to split off the whole part.
    """
    coefficients = _polynomial(lambda x: np.exp2(x / 4), 6, -8.0, 0.0)

    def codegen(context, builder, sig, arguments):
        root = _horner(builder, single, coefficients, arguments[0])
        square = builder.fmul(root, root)
        return builder.fmul(square, square)

    return single(single), codegen


@intrinsic
def log2(typing_context, a):
    """Binary logarithm of normal positive float64, absolute error below 1e-7."""
    low, high = np.sqrt(0.5) - 1, np.sqrt(2.0) - 1

    def quotient(x: np.ndarray) -> np.ndarray:
        safe = np.where(np.abs(x) < 1e-9, 1.0, x)
        return np.where(np.abs(x) < 1e-9, 1 / np.log(2), np.log2(1 + safe) / safe)

    coefficients = _polynomial(quotient, 9, low, high)

    def codegen(context, builder, sig, arguments):
        def longs(value: int) -> ir.Constant:
            return ir.Constant(_LONGS, [value] * LANES)

        root = int(np.float64(np.sqrt(0.5)).view(np.int64))
        bits = builder.bitcast(arguments[0], _LONGS)
        exponent = builder.ashr(builder.sub(bits, longs(root)), longs(52))
        mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, longs(52))), double.llvm)
        part = builder.fsub(mantissa, constant(double, 1.0))
        whole = builder.sitofp(exponent, double.llvm)
        return muladd(builder, double, part, _horner(builder, double, coefficients, part), whole)

    return double(double), codegen


@intrinsic
def span_mask(typing_context, bounds, valid):
    """An 8x8 bit field, row by row from the lowest bit: row r has the bits bounds[8 + r] to bounds[r] - 1 set if
    valid[r]. bounds: whole numbers in 0..8."""

    def codegen(context, builder, sig, arguments):
        ones = builder.shl(ir.Constant(_INTEGERS, [1] * LANES), builder.fptosi(arguments[0], _INTEGERS))
        past, first = (shuffle(builder, ones, ones, list(range(start, start + 8))) for start in (0, 8))
        row_valid = shuffle(builder, arguments[1], arguments[1], list(range(8)))
        some = builder.and_(row_valid, builder.icmp_signed(">", past, first))
        bits = builder.select(some, builder.sub(past, first), ir.Constant(past.type, [0] * 8))
        return builder.bitcast(builder.trunc(bits, ir.VectorType(ir.IntType(8), 8)), ir.IntType(64))

    return types.int64(bounds, valid), codegen


@intrinsic
def add_weighted(typing_context, state, base, weight, rows, at, width):
    """state's vectors at base, base + 16, ... += weight times rows[at], rows[at + 1], ...; as many as `width` has."""

    def codegen(context, builder, sig, arguments):
        place = pointer(context, builder, sig.args[0], arguments[0], arguments[1])
        source = pointer(context, builder, sig.args[3], arguments[3], arguments[4])
        for k in range(sig.args[5].count):
            target = builder.gep(place, [ir.Constant(_INT, k * LANES)])
            scalar = builder.load(builder.gep(source, [ir.Constant(_INT, k)]))
            value = muladd(
                builder, single, arguments[2], splat(builder, single, scalar), load_at(builder, single, target)
            )
            store_at(builder, single, target, value)
        return context.get_dummy_value()

    return types.void(state, types.intp, weight, rows, types.intp, width), codegen


def _columns(context, builder, sig, arguments, add: bool):
    """Store the vectors of a tuple one after the other from array[index] on, or add them to what is there."""
    place = pointer(context, builder, sig.args[0], arguments[0], arguments[1])
    kind = sig.args[2].dtype
    for k, value in enumerate(cgutils.unpack_tuple(builder, arguments[2])):
        target = builder.gep(place, [ir.Constant(_INT, k * LANES)])
        store_at(builder, kind, target, builder.fadd(load_at(builder, kind, target), value) if add else value)
    return context.get_dummy_value()


@intrinsic
def store_columns(typing_context, array, index, vectors):
    """array[index:index + 16], array[index + 16:index + 32], ... = vectors."""
    return types.void(array, types.intp, vectors), lambda *arguments: _columns(*arguments, add=False)


@intrinsic
def add_columns(typing_context, array, index, vectors):
    """array[index:index + 16], array[index + 16:index + 32], ... += vectors."""
    return types.void(array, types.intp, vectors), lambda *arguments: _columns(*arguments, add=True)


@intrinsic
def zeros(typing_context, width):
    """As many vectors of zeros as `width` is long."""
    kind = types.UniTuple(single, width.count)

    def codegen(context, builder, sig, arguments):
        return context.make_tuple(builder, kind, [constant(single, 0.0)] * width.count)

    return kind(width), codegen


@intrinsic
def dot(typing_context, state, base, rows, at, width):
    """The sum of state's vectors at base, base + 16, ... times rows[at], rows[at + 1], ..."""

    def codegen(context, builder, sig, arguments):
        place = pointer(context, builder, sig.args[0], arguments[0], arguments[1])
        source = pointer(context, builder, sig.args[2], arguments[2], arguments[3])
        halves = [constant(single, 0.0), constant(single, 0.0)]  # two chains, each waits for itself only
        for k in range(sig.args[4].count):
            scalar = builder.load(builder.gep(source, [ir.Constant(_INT, k)]))
            vector = load_at(builder, single, builder.gep(place, [ir.Constant(_INT, k * LANES)]))
            halves[k % 2] = muladd(builder, single, vector, splat(builder, single, scalar), halves[k % 2])
        return builder.fadd(*halves)

    return single(state, types.intp, rows, types.intp, width), codegen


@intrinsic
def add_products(typing_context, sums, weight, state, base):
    """sums + weight times state's vectors at base, base + 16, ..."""

    def codegen(context, builder, sig, arguments):
        place = pointer(context, builder, sig.args[2], arguments[2], arguments[3])
        results = []
        for k, value in enumerate(cgutils.unpack_tuple(builder, arguments[0])):
            vector = load_at(builder, single, builder.gep(place, [ir.Constant(_INT, k * LANES)]))
            results.append(muladd(builder, single, arguments[1], vector, value))
        return context.make_tuple(builder, sig.args[0], results)

    return sums(sums, weight, state, types.intp), codegen


def _fold(builder, a, b, size: int):
    """Add the halves of each run of `size` lanes: a's sums, then b's."""
    lower = [start + lane for start in range(0, 2 * LANES, size) for lane in range(size // 2)]
    return builder.fadd(shuffle(builder, a, b, lower), shuffle(builder, a, b, [lane + size // 2 for lane in lower]))


@intrinsic
def store_totals(typing_context, array, index, vectors, more):
    """array[index + k] = the sum of all lanes of (vectors + more)[k]; both are tuples of vectors.

    The sums are those of a tree, 16 at a time. Writes whole runs of 16, zero where there are no more vectors.
    """

    def codegen(context, builder, sig, arguments):
        values = [value for pack in arguments[2:] for value in cgutils.unpack_tuple(builder, pack)]
        place = pointer(context, builder, sig.args[0], arguments[0], arguments[1])
        for start in range(0, len(values), LANES):
            level = values[start : start + LANES]
            level += [constant(single, 0.0)] * (LANES - len(level))
            for size in (16, 8, 4, 2):
                level = [_fold(builder, level[j], level[j + 1], size) for j in range(0, len(level), 2)]
            store_at(builder, single, builder.gep(place, [ir.Constant(_INT, start)]), level[0])
        return context.get_dummy_value()

    return types.void(array, types.intp, vectors, more), codegen
