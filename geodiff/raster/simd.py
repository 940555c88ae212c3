"""Vectors of 16 float32 or float64 for numba kernels: one 4x4 block of pixels, or 16 splats, is one vector.

numba vectorises loops only when LLVM recognises them, and stops silently after small changes. Here the vector is a type
of its own, so a kernel is vector code by construction; LLVM splits it where the machine's registers are narrower.
Arithmetic is written with operators, scalars stand for the same number in every lane, comparisons give a mask, and a
product that is added to something is fused where the machine can.

Only local variables of a kernel hold vectors; they are loaded from and stored to flat arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.extending import intrinsic, lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.np.arrayobj import make_array

LANES = 16
_BIT, _BYTE, _INT, _LONG = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_CONTRACT = ("contract",)


class Vector(types.Type):
    """16 numbers."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        self.llvm_element = _FLOAT if element == types.float32 else _DOUBLE
        self.llvm = ir.VectorType(self.llvm_element, LANES)
        self.suffix = f"v{LANES}f{element.bitwidth}"
        super().__init__(name=f"{element}x{LANES}")


class _Mask(types.Type):
    """16 truth values."""

    llvm = ir.VectorType(_BIT, LANES)

    def __init__(self) -> None:
        super().__init__(name=f"boolx{LANES}")


@register_default(Vector)
@register_default(_Mask)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        super().__init__(manager, frontend_type, frontend_type.llvm)


single, double, mask = Vector(types.float32), Vector(types.float64), _Mask()
_INTEGERS = ir.VectorType(_INT, LANES)


def constant(kind: Vector, values: np.ndarray | float) -> ir.Constant:
    return ir.Constant(kind.llvm, [float(v) for v in np.broadcast_to(values, LANES)])


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value, fastmath: tuple = ()) -> ir.Value:
    """Call an LLVM intrinsic by its full name."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments, fastmath=fastmath)


def splat(builder: ir.IRBuilder, kind: Vector, value: ir.Value) -> ir.Value:
    """The value, of the vector's element type, in every lane."""
    undefined = ir.Constant(kind.llvm, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTEGERS, [0] * LANES))


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: list[int]) -> ir.Value:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(lanes)), lanes))


def muladd(builder: ir.IRBuilder, kind: Vector, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return call(builder, f"llvm.fmuladd.{kind.suffix}", kind.llvm, a, b, c)


def pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    """To array[index] of a flat array."""
    return builder.gep(make_array(array_type)(context, builder, array).data, [index])


def load_at(builder: ir.IRBuilder, kind: Vector, address: ir.Value) -> ir.Value:
    value = builder.load(builder.bitcast(address, kind.llvm.as_pointer()))
    value.align = kind.element.bitwidth // 8
    return value


def store_at(builder: ir.IRBuilder, kind: Vector, address: ir.Value, value: ir.Value) -> None:
    place = builder.bitcast(address, kind.llvm.as_pointer())
    builder.store(value, place).align = kind.element.bitwidth // 8


def _vector_of(arguments: tuple) -> Vector | None:
    """The one vector type among the arguments, the others being scalars or of that type too."""
    kinds = {a for a in arguments if isinstance(a, Vector)}
    if len(kinds) != 1 or not all(isinstance(a, (Vector, types.Number)) for a in arguments):
        return None
    return kinds.pop()


def _promote(context: Any, builder: ir.IRBuilder, kind: Vector, value_type: types.Type, value: ir.Value) -> ir.Value:
    if isinstance(value_type, Vector):
        return value
    return splat(builder, kind, context.cast(builder, value, value_type, kind.element))


def _operator(function: Callable, emit: Callable, result: types.Type | None = None) -> None:
    """Teach numba an operator of two vectors, or of a vector and a scalar."""

    @infer_global(function)
    class _Template(AbstractTemplate):
        def generic(self, args: tuple, kws: dict) -> Any:
            kind = _vector_of(args) if len(args) == 2 else None
            return None if kind is None else signature(result or kind, *args)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, arguments: tuple) -> ir.Value:
        kind = _vector_of(sig.args)
        assert kind is not None
        a, b = (_promote(context, builder, kind, t, v) for t, v in zip(sig.args, arguments, strict=True))
        return emit(builder, a, b)

    for pair in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *pair)(lower)


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_CONTRACT))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_CONTRACT))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_CONTRACT))
_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
_operator(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), mask)
_operator(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), mask)


@infer_global(operator.neg)
class _Negative(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> Any:
        return signature(args[0], args[0]) if len(args) == 1 and isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _lower_negative(context: Any, builder: ir.IRBuilder, sig: Any, arguments: tuple) -> ir.Value:
    return builder.fneg(arguments[0])


@infer_global(operator.and_)
class _Both(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> Any:
        return signature(mask, *args) if args == (mask, mask) else None


@lower_builtin(operator.and_, _Mask, _Mask)
def _lower_both(context: Any, builder: ir.IRBuilder, sig: Any, arguments: tuple) -> ir.Value:
    return builder.and_(*arguments)


def _function(emit: Callable, doc: str) -> Callable:
    """An intrinsic of one or two vectors of one kind; scalars are promoted."""

    def typed(kind: Vector) -> Callable:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, arguments: tuple) -> ir.Value:
            values = [_promote(context, builder, kind, t, v) for t, v in zip(sig.args, arguments, strict=True)]
            return emit(builder, kind, *values)

        return codegen

    def of_one(typing_context, a):
        return kind_signature(a)

    def of_two(typing_context, a, b):
        return kind_signature(a, b)

    def kind_signature(*arguments):
        kind = _vector_of(arguments)
        return None if kind is None else (signature(kind, *arguments), typed(kind))

    function = of_two if emit.__code__.co_argcount == 4 else of_one
    function.__doc__ = doc
    return intrinsic(function)


def _unary(name: str) -> Callable:
    return lambda builder, kind, a: call(builder, f"llvm.{name}.{kind.suffix}", kind.llvm, a)


minimum = _function(
    lambda builder, kind, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b), "The smaller of each lane."
)
maximum = _function(
    lambda builder, kind, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b), "The larger of each lane."
)
square_root = _function(_unary("sqrt"), "The square root of each lane.")
floor = _function(_unary("floor"), "The largest whole number that is not greater, of each lane.")
ceil = _function(_unary("ceil"), "The smallest whole number that is not smaller, of each lane.")
absolute = _function(_unary("fabs"), "The lane without its sign.")


@intrinsic
def where(typing_context, condition, chosen, otherwise):
    """`chosen` where the mask is true, else `otherwise`."""
    kind = _vector_of((chosen, otherwise))
    if kind is None or condition != mask:
        return None

    def codegen(context, builder, sig, arguments):
        values = (_promote(context, builder, kind, t, v) for t, v in zip(sig.args[1:], arguments[1:], strict=True))
        return builder.select(arguments[0], *values)

    return kind(condition, chosen, otherwise), codegen


@intrinsic
def any_of(typing_context, condition):
    """Whether a lane of the mask is true."""

    def codegen(context, builder, sig, arguments):
        bits = builder.bitcast(arguments[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), codegen


@intrinsic
def load(typing_context, array, index):
    """array[index : index + 16] of a flat array."""
    kind = Vector(array.dtype)

    def codegen(context, builder, sig, arguments):
        index = context.cast(builder, arguments[1], sig.args[1], types.intp)
        return load_at(builder, kind, pointer(context, builder, sig.args[0], arguments[0], index))

    return kind(array, index), codegen


@intrinsic
def store(typing_context, array, index, value):
    """array[index : index + 16] = value."""
    kind = Vector(array.dtype)

    def codegen(context, builder, sig, arguments):
        index = context.cast(builder, arguments[1], sig.args[1], types.intp)
        place = pointer(context, builder, sig.args[0], arguments[0], index)
        store_at(builder, kind, place, _promote(context, builder, kind, sig.args[2], arguments[2]))
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def get(typing_context, array, index):
    """array[index] of a flat array, for an index that is not negative: without a look at its sign."""

    def codegen(context, builder, sig, arguments):
        return builder.load(pointer(context, builder, sig.args[0], arguments[0], arguments[1]))

    return array.dtype(array, types.intp), codegen


@intrinsic
def put(typing_context, array, index, value):
    """array[index] = value of a flat array, for an index that is not negative."""

    def codegen(context, builder, sig, arguments):
        builder.store(arguments[2], pointer(context, builder, sig.args[0], arguments[0], arguments[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@intrinsic
def fill(typing_context, scalar):
    """The float32 or float64 in every lane."""
    kind = Vector(scalar)
    return kind(scalar), lambda context, builder, sig, arguments: splat(builder, kind, arguments[0])


@intrinsic
def widen(typing_context, a):
    """float32 as float64."""
    return double(single), lambda context, builder, sig, arguments: builder.fpext(arguments[0], double.llvm)


@intrinsic
def narrow(typing_context, a):
    """float64 rounded to float32."""
    return single(double), lambda context, builder, sig, arguments: builder.fptrunc(arguments[0], single.llvm)


def _numbers(values: np.ndarray, doc: str) -> Callable:
    def function(typing_context):
        return single(), lambda context, builder, sig, arguments: constant(single, values)

    function.__doc__ = doc
    return intrinsic(function)


_lane = np.arange(LANES)
ramp = _numbers(_lane, "The lane's number, float32.")
half_ramp = _numbers(_lane % 8, "The lane's number in its half, float32.")
first_half = _numbers(_lane < 8, "1 in lanes 0 to 7, else 0, float32.")


@intrinsic
def align_stack(typing_context):
    """For a kernel whose vectors do not all fit in registers: those on the stack shall not straddle cache lines."""

    def codegen(context, builder, sig, arguments):
        builder.function.attributes.alignstack = 64
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def lowest_bit(typing_context, bits):
    """The number of the lowest bit that is set, of an int64 that is not 0."""

    def codegen(context, builder, sig, arguments):
        return builder.cttz(arguments[0], ir.Constant(_BIT, 1))

    return types.int64(types.int64), codegen


@intrinsic
def prefetch(typing_context, array, index):
    """Ask for the cache line of array[index] of a flat array ahead of its use."""

    def codegen(context, builder, sig, arguments):
        index = context.cast(builder, arguments[1], sig.args[1], types.intp)
        place = builder.bitcast(pointer(context, builder, sig.args[0], arguments[0], index), _BYTE.as_pointer())
        flags = [ir.Constant(_INT, v) for v in (0, 3, 1)]  # for reading, keep in all caches, data
        call(builder, "llvm.prefetch.p0", ir.VoidType(), place, *flags)
        return context.get_dummy_value()

    return types.void(array, index), codegen


@intrinsic
def fetch_add(typing_context, array, index):
    """array[index] += 1 of a flat int64 array, atomically; returns the value before. Hands out work to threads."""

    def codegen(context, builder, sig, arguments):
        index = context.cast(builder, arguments[1], sig.args[1], types.intp)
        place = pointer(context, builder, sig.args[0], arguments[0], index)
        return builder.atomic_rmw("add", place, ir.Constant(_LONG, 1), "monotonic")

    return types.int64(array, index), codegen
