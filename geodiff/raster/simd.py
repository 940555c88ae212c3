"""Vectors of 16 float32 for numba kernels: one 4x4 block of pixels is one vector.

numba vectorises loops only when LLVM recognises them, and stops silently after small changes. Here the vector is a type
of its own, so a kernel is vector code by construction; LLVM splits it where the machine's registers are narrower.

Only local variables of a kernel hold such vectors; they are loaded from and stored to flat float32 arrays. numba's
cache on disk looks at a kernel's own file alone: after a change here, delete the `__pycache__` beside it.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.extending import intrinsic
from numba.np.arrayobj import make_array

LANES = 16
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_VECTOR, _INTEGERS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


@register_default(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, frontend_type) -> None:
        super().__init__(manager, frontend_type, _VECTOR)


vector = _Vector()


def _constant(values: np.ndarray | float) -> ir.Constant:
    return ir.Constant(_VECTOR, [float(v) for v in np.broadcast_to(values, LANES)])


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value, fastmath: tuple = ()) -> ir.Value:
    """Call an LLVM intrinsic by its full name."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments, fastmath=fastmath)


def _muladd(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return _call(builder, "llvm.fmuladd.v16f32", _VECTOR, a, b, c)


def _pointer(context, builder, array_type, array, index):
    data = make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@intrinsic
def load(typing_context, array, index):
    """array[index : index + 16] of a flat float32 array."""

    def codegen(context, builder, signature, arguments):
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        value = builder.load(_pointer(context, builder, signature.args[0], arguments[0], index))
        value.align = 4
        return value

    return vector(array, index), codegen


@intrinsic
def store(typing_context, array, index, value):
    """array[index : index + 16] = value."""

    def codegen(context, builder, signature, arguments):
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], index)
        builder.store(arguments[2], pointer).align = 4
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def fill(typing_context, scalar):
    """The scalar in every lane."""

    def codegen(context, builder, signature, arguments):
        value = context.cast(builder, arguments[0], signature.args[0], types.float32)
        single = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_INT, 0))
        zeros = ir.Constant(_INTEGERS, [0] * LANES)
        return builder.shuffle_vector(single, ir.Constant(_VECTOR, ir.Undefined), zeros)

    return vector(scalar), codegen


def _constant_intrinsic(values: np.ndarray, doc: str):
    def function(typing_context):
        def codegen(context, builder, signature, arguments):
            return _constant(values)

        return vector(), codegen

    function.__doc__ = doc
    return intrinsic(function)


ramp = _constant_intrinsic(np.arange(LANES), "The lane's number.")
columns = _constant_intrinsic(np.arange(LANES) % 4, "The lane's column in its 4x4 block.")
rows = _constant_intrinsic(np.arange(LANES) // 4, "The lane's row in its 4x4 block.")


@intrinsic
def add(typing_context, a, b):
    """a + b."""
    return vector(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def subtract(typing_context, a, b):
    """a - b."""
    return vector(a, b), lambda context, builder, signature, arguments: builder.fsub(*arguments)


@intrinsic
def multiply(typing_context, a, b):
    """a * b."""
    return vector(a, b), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def divide(typing_context, a, b):
    """a / b."""
    return vector(a, b), lambda context, builder, signature, arguments: builder.fdiv(*arguments)


@intrinsic
def muladd(typing_context, a, b, c):
    """a * b + c, fused where the machine can."""
    return vector(a, b, c), lambda context, builder, signature, arguments: _muladd(builder, *arguments)


@intrinsic
def minimum(typing_context, a, b):
    """The smaller of a and b in each lane."""

    def codegen(context, builder, signature, arguments):
        a, b = arguments
        return builder.select(builder.fcmp_ordered("<", a, b), a, b)

    return vector(a, b), codegen


@intrinsic
def maximum(typing_context, a, b):
    """The larger of a and b in each lane."""

    def codegen(context, builder, signature, arguments):
        a, b = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return vector(a, b), codegen


def _function_of_one(llvm_name: str, doc: str):
    def function(typing_context, a):
        def codegen(context, builder, signature, arguments):
            return _call(builder, llvm_name, _VECTOR, *arguments)

        return vector(a), codegen

    function.__doc__ = doc
    return intrinsic(function)


square_root = _function_of_one("llvm.sqrt.v16f32", "The square root of each lane.")
floor = _function_of_one("llvm.floor.v16f32", "The largest whole number that is not greater, of each lane.")
ceil = _function_of_one("llvm.ceil.v16f32", "The smallest whole number that is not smaller, of each lane.")


@intrinsic
def where_greater(typing_context, a, b, chosen, otherwise):
    """`chosen` where a > b, else `otherwise`."""

    def codegen(context, builder, signature, arguments):
        a, b, chosen, otherwise = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), chosen, otherwise)

    return vector(a, b, chosen, otherwise), codegen


@intrinsic
def any_positive(typing_context, a):
    """True if a lane of a is greater than zero."""

    def codegen(context, builder, signature, arguments):
        lanes = builder.fcmp_ordered(">", arguments[0], _constant(0.0))
        bits = builder.bitcast(lanes, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(a), codegen


@intrinsic
def total(typing_context, a):
    """The sum of all lanes, added in pairs."""

    def codegen(context, builder, signature, arguments):
        zero = ir.Constant(_FLOAT, 0.0)
        return _call(builder, "llvm.vector.reduce.fadd.v16f32", _FLOAT, zero, arguments[0], fastmath=("reassoc",))

    return types.float32(a), codegen


@intrinsic
def span_mask(typing_context, first, past):
    """An 8x8 bit field, row by row from the lowest bit: row r has the bits first[r] to past[r] - 1 set. Lanes 0-7
    count; both hold whole numbers in 0..8."""

    def codegen(context, builder, signature, arguments):
        one = ir.Constant(_INTEGERS, [1] * LANES)
        first, past = (builder.fptosi(a, _INTEGERS) for a in arguments)
        bits = builder.sub(builder.shl(one, past), builder.shl(one, first))
        bits = builder.select(builder.icmp_signed(">", past, first), bits, ir.Constant(_INTEGERS, [0] * LANES))
        narrow = builder.trunc(bits, ir.VectorType(ir.IntType(8), LANES))
        half = ir.Constant(ir.VectorType(_INT, 8), list(range(8)))
        return builder.bitcast(builder.shuffle_vector(narrow, narrow, half), ir.IntType(64))

    return types.int64(first, past), codegen


@intrinsic
def lowest_bit(typing_context, mask):
    """The number of the lowest bit that is set, of an int64 that is not 0."""

    def codegen(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def prefetch(typing_context, array, row):
    """Ask for a row of a two-dimensional array ahead of its use."""

    def codegen(context, builder, signature, arguments):
        row = context.cast(builder, arguments[1], signature.args[1], types.intp)
        data = make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(data.strides, 0)
        byte = ir.IntType(8).as_pointer()
        pointer = builder.gep(builder.bitcast(data.data, byte), [builder.mul(row, stride)])
        flags = [ir.Constant(_INT, v) for v in (0, 3, 1)]  # for reading, keep in all caches, data
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *flags)
        return context.get_dummy_value()

    return types.void(array, row), codegen


def _power_of_two_coefficients() -> np.ndarray:
    """Polynomial of degree 5 for 2**f on [-0.5, 0.5], through the Chebyshev nodes: relative error below 1e-7."""
    fitted = np.polynomial.Chebyshev.interpolate(np.exp2, 5, domain=[-0.5, 0.5])
    return fitted.convert(kind=np.polynomial.Polynomial).coef


@intrinsic
def exp2(typing_context, a):
    """2 ** a, relative error about 2e-7; below -126 it stays at 2 ** -126."""
    coefficients = _power_of_two_coefficients()

    def codegen(context, builder, signature, arguments):
        lowest = _constant(-126.0)
        value = builder.select(builder.fcmp_ordered(">", arguments[0], lowest), arguments[0], lowest)
        whole = _call(builder, "llvm.rint.v16f32", _VECTOR, value)
        part = builder.fsub(value, whole)
        power = _constant(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            power = _muladd(builder, power, part, _constant(coefficient))
        exponent = builder.shl(builder.fptosi(whole, _INTEGERS), ir.Constant(_INTEGERS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(power, _INTEGERS), exponent), _VECTOR)

    return vector(a), codegen


@intrinsic
def fetch_add(typing_context, array, index):
    """array[index] += 1 of a flat int64 array, atomically; returns the value before. Hands out work to threads."""

    def codegen(context, builder, signature, arguments):
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", builder.gep(data, [index]), one, "monotonic")

    return types.int64(array, index), codegen
