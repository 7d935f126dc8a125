"""Sixteen single-precision numbers at once, for the compiled kernels.

Numba leaves it to LLVM to find vectors in loops, which then test at run time whether arrays overlap and keep sums in
memory. These few operations say what is meant: each works on 16 neighbouring numbers of flat float32 arrays, and
becomes a handful of instructions on any processor (one AVX-512 register, two of AVX2, four of SSE or NEON).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

WIDTH = 16
cgutils: Any = untyped_cgutils
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, WIDTH)


def operation(function: Any) -> Any:
    """Make an operation of a function that writes its instructions; kernels call it without ``typingctx``."""
    return intrinsic(function)


def _at(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to element ``index`` of a flat array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load(builder: Any, pointer: Any) -> Any:
    value = builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()))
    value.align = 4
    return value


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, _VECTOR.as_pointer())).align = 4


def spread(builder: Any, scalar: Any, width: int = WIDTH) -> Any:
    """Vector of ``width`` numbers that all equal ``scalar``."""
    vector = ir.VectorType(_FLOAT, width)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, in one instruction where the processor has it."""
    fuse = ("contract",)
    return builder.fadd(builder.fmul(a, b, flags=fuse), c, flags=fuse)


@operation
def scaled(typingctx: Any, target: Any, i: Any, source: Any, j: Any, scale: Any) -> Any:
    """``target[i : i + 16] = scale * source[j : j + 16]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, i, source, j, scale = arguments
        other = _load(builder, _at(context, builder, signature.args[2], source, j))
        place = _at(context, builder, signature.args[0], target, i)
        _store(builder, builder.fmul(spread(builder, scale), other), place)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.float32), generate


@operation
def add_scaled(typingctx: Any, target: Any, i: Any, source: Any, j: Any, scale: Any) -> Any:
    """``target[i : i + 16] += scale * source[j : j + 16]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, i, source, j, scale = arguments
        place = _at(context, builder, signature.args[0], target, i)
        other = _load(builder, _at(context, builder, signature.args[2], source, j))
        _store(builder, _multiply_add(builder, spread(builder, scale), other, _load(builder, place)), place)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.float32), generate


@operation
def add_two_scaled(typingctx: Any, target: Any, i: Any, source: Any, j: Any, a: Any, k: Any, b: Any) -> Any:
    """``target[i : i + 16] += a * source[j : j + 16] + b * source[k : k + 16]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, i, source, j, a, k, b = arguments
        place = _at(context, builder, signature.args[0], target, i)
        total = _load(builder, place)
        for offset, scale in ((j, a), (k, b)):
            other = _load(builder, _at(context, builder, signature.args[2], source, offset))
            total = _multiply_add(builder, spread(builder, scale), other, total)
        _store(builder, total, place)
        return context.get_dummy_value()

    intp, real = types.intp, types.float32
    return types.void(target, intp, source, intp, real, intp, real), generate


@operation
def interpolate(
    typingctx: Any, target: Any, i: Any, source: Any, row0: Any, row1: Any, row2: Any, row3: Any, step: Any,
    low: Any, high: Any, weight0: Any, weight1: Any, weight2: Any, weight3: Any,
) -> Any:  # fmt: skip
    """``target[i : i + 16]`` = sum over four rows of ``weight * (low * source[row] + high * source[row + step])``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, i, source = arguments[:3]
        rows, (step, low, high), weights = arguments[3:7], arguments[7:10], arguments[10:]
        near: list[Any] = []
        far: list[Any] = []
        for row in rows:
            for side, offset in ((near, row), (far, builder.add(row, step))):
                side.append(_load(builder, _at(context, builder, signature.args[2], source, offset)))
        shares = [spread(builder, weight) for weight in weights]
        sums = []
        for side, share in ((near, low), (far, high)):
            total = builder.fmul(shares[0], side[0])
            for weight, values in zip(shares[1:], side[1:], strict=True):
                total = _multiply_add(builder, weight, values, total)
            sums.append((total, spread(builder, share)))
        total = builder.fmul(*sums[0])
        total = _multiply_add(builder, *sums[1], total)
        _store(builder, total, _at(context, builder, signature.args[0], target, i))
        return context.get_dummy_value()

    intp, real = types.intp, types.float32
    return types.void(target, intp, source, *[intp] * 5, *[real] * 6), generate


@operation
def subtract_product(
    typingctx: Any, target: Any, i: Any, matrix: Any, j: Any, step: Any, count: Any, vector: Any, k: Any, scale: Any
) -> Any:
    """``target[i : i + 16] -= scale * sum of vector[k + n] * matrix[j + n step : j + n step + 16]`` over n < count."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, i, matrix, j, step, count, vector, k, scale = arguments
        place = _at(context, builder, signature.args[0], target, i)
        zero = ir.Constant(_VECTOR, [0.0] * WIDTH)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]

        def add(n: Any, total: Any) -> None:
            factor = builder.load(_at(context, builder, signature.args[6], vector, builder.add(k, n)))
            row = _at(context, builder, signature.args[2], matrix, builder.add(j, builder.mul(n, step)))
            sum_ = _multiply_add(builder, spread(builder, factor), _load(builder, row), builder.load(total))
            builder.store(sum_, total)

        one = ir.Constant(count.type, 1)
        pairs = builder.lshr(count, one)
        with cgutils.for_range(builder, pairs) as loop:
            even = builder.shl(loop.index, one)
            add(even, totals[0])
            add(builder.add(even, one), totals[1])
        with builder.if_then(builder.trunc(count, ir.IntType(1))):
            add(builder.sub(count, one), totals[0])
        whole = builder.fadd(*(builder.load(total) for total in totals))
        minus = builder.fneg(spread(builder, scale))
        _store(builder, _multiply_add(builder, minus, whole, _load(builder, place)), place)
        return context.get_dummy_value()

    intp, real = types.intp, types.float32
    return types.void(target, intp, matrix, intp, intp, intp, vector, intp, real), generate


def _prefetch(context: Any, builder: Any, signature: Any, arguments: Any, write: int) -> Any:
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    pointer = builder.bitcast(_at(context, builder, signature.args[0], *arguments), byte)
    function = builder.module.declare_intrinsic(
        "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    )
    builder.call(function, [pointer, ir.Constant(word, write), ir.Constant(word, 3), ir.Constant(word, 1)])
    return context.get_dummy_value()


@operation
def prefetch(typingctx: Any, source: Any, i: Any) -> Any:
    """Ask for the line of memory that holds ``source[i]``, to be written."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _prefetch(context, builder, signature, arguments, 1)

    return types.void(source, types.intp), generate


@operation
def look_up(typingctx: Any, source: Any, i: Any) -> Any:
    """Ask for the line of memory that holds ``source[i]``, to be read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _prefetch(context, builder, signature, arguments, 0)

    return types.void(source, types.intp), generate
