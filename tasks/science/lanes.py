"""Four single-precision numbers added at a time, for functions that `njit` compiles.

The compiler joins equal steps of a loop to vector instructions, but not equal lines that follow one another: here they
are written as such.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 4
"""Numbers that are added at a time."""
_ALIGNMENT = 4
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:  # noqa: ANN401
    data = context.make_array(array_type)(context, builder, array).data
    place = cgutils.gep(builder, data, index)  # type: ignore[no-untyped-call]
    return builder.bitcast(place, _VECTOR.as_pointer())


def _broadcast(builder: Any, number: Any) -> Any:  # noqa: ANN401
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _adder(*, squared: bool) -> Any:  # noqa: ANN401
    def typed(typing_context: Any, sums: Any, at: Any, values: Any, first: Any, coefficient: Any) -> Any:  # noqa: ANN401
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
            array, index, others, other, factor = arguments
            to = _pointer(context, builder, signature.args[0], array, index)
            source = _pointer(context, builder, signature.args[2], others, other)
            product = builder.fmul(builder.load(source, align=_ALIGNMENT), _broadcast(builder, factor))
            if squared:
                product = builder.fmul(product, product)
            builder.store(builder.fadd(builder.load(to, align=_ALIGNMENT), product), to, align=_ALIGNMENT)
            return context.get_dummy_value()

        return types.none(sums, types.uint64, values, types.uint64, types.float32), generate

    return typed


add_products: Any = intrinsic(_adder(squared=False))
"""Add to four numbers of ``sums`` from ``at`` on those of ``values`` from ``first`` on, times a coefficient."""
add_squares: Any = intrinsic(_adder(squared=True))
"""The same with the squares of the products."""
