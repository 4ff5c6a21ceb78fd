"""Four single-precision numbers added or moved at a time, for functions that `njit` compiles.

The compiler joins equal steps of a loop to vector instructions, but not equal lines that follow one another: here they
are written as such.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 4
"""Numbers that are added or moved at a time."""
UNSIGNED_LANES = np.uint64(LANES)
"""The same for indices, which have no sign."""
_ALIGNMENT = 4
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_LOW, _HIGH = (0, 4, 1, 5), (2, 6, 3, 7)
"""The lower halves of two vectors taken in turns, and the upper ones."""


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


def _places(context: Any, builder: Any, array_type: Any, array: Any, index: Any, distance: Any) -> list[Any]:  # noqa: ANN401
    places = []
    for _ in range(LANES):
        places.append(_pointer(context, builder, array_type, array, index))
        index = builder.add(index, distance)
    return places


def _merged(builder: Any, first: Any, second: Any, lanes: tuple[int, ...]) -> Any:  # noqa: ANN401
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))


def _transposer(typing_context: Any, source: Any, at: Any, step: Any, target: Any, to: Any, to_step: Any) -> Any:  # noqa: ANN401
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        array, index, distance, other, other_index, other_distance = arguments
        places = _places(context, builder, signature.args[0], array, index, distance)
        rows = [builder.load(place, align=_ALIGNMENT) for place in places]
        # what the lanes of every second row hold is brought together, then that of both halves
        halves = [_merged(builder, rows[k], rows[k + 2], half) for half in (_LOW, _HIGH) for k in (0, 1)]
        columns = [_merged(builder, halves[k], halves[k + 1], half) for k in (0, 2) for half in (_LOW, _HIGH)]
        places = _places(context, builder, signature.args[3], other, other_index, other_distance)
        for place, column in zip(places, columns, strict=True):
            builder.store(column, place, align=_ALIGNMENT)
        return context.get_dummy_value()

    return types.none(source, types.uint64, types.uint64, target, types.uint64, types.uint64), generate


add_products: Any = intrinsic(_adder(squared=False))
"""Add to four numbers of ``sums`` from ``at`` on those of ``values`` from ``first`` on, times a coefficient."""
add_squares: Any = intrinsic(_adder(squared=True))
"""The same with the squares of the products."""
transpose: Any = intrinsic(_transposer)
"""Copy four by four numbers so that rows become columns: from ``source`` at ``at``, whose rows begin ``step`` apart, to
``target`` at ``to``, whose rows begin ``to_step`` apart."""
