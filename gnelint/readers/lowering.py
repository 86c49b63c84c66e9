"""Operations that models of either world write with operands of several kinds, lowered once.

Operands are a reader's values and constants, and plain numbers of the program; which they are decides what a product
is: a linear map, a scale, a product of two paths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gnelint.ir.graph import Parameter, Value
from gnelint.readers.emitter import C, CannotLowerError, Emitter, Shape, V, concrete, rank, shape_of

_FLOATING = ("float", "bfloat")


# --- sums, differences, products and quotients ------------------------------------------------------------------------


def add(em: Emitter[V, C], a: V | C | float, b: V | C | float, shape: Shape | None, alpha: float = 1.0) -> V | C:
    """a + alpha * b, of the broadcast `shape`; a constant is a bias, a value added to itself is scaled."""
    if not isinstance(b, Value):
        if isinstance(a, Value):
            return em.plus(a, b, shape, alpha)
        if alpha == 1:
            return em.of_constants("add", a, b, shape)
        scaled = b * alpha if isinstance(b, (int, float)) else em.of_constants("mul", b, alpha, b.shape)
        return add(em, a, scaled, shape)
    if not isinstance(a, Value):
        return em.plus(em.scale(b, alpha), a, shape)
    if a.name == b.name:
        return em.scale(a, 1.0 + alpha)
    if alpha == -1:
        return em.emit("sub", [a, b], shape)
    return em.emit("add", [a, em.scale(b, alpha)], shape)


def multiply(em: Emitter[V, C], a: V | C | float, b: V | C | float, shape: Shape | None) -> V | C:
    """a * b, of the broadcast `shape`; the square of one value is a power, not a product of two."""
    if isinstance(a, Value) and isinstance(b, Value):
        return em.emit("pow", [a], shape, exponent=2.0) if a.name == b.name else em.emit("mul", [a, b], shape)
    if isinstance(a, Value):
        assert not isinstance(b, Value)
        return em.times(a, b, shape)
    return em.times(b, a, shape) if isinstance(b, Value) else em.of_constants("mul", a, b, shape)


def divide(em: Emitter[V, C], a: V | C | float, b: V | C | float, shape: Shape | None) -> V | C:
    """a / b, of the broadcast `shape`."""
    if isinstance(b, Value):
        if isinstance(a, Value):
            return em.emit("div", [a, b], shape)
        inverse = em.emit("reciprocal", [b], b.shape)
        return inverse if em.number(a) == 1 else em.times(inverse, a, shape)
    return em.times(a, b, shape, reciprocal=True) if isinstance(a, Value) else em.of_constants("div", a, b, shape)


def power_of(em: Emitter[V, C], base: float, exponent: V, shape: Shape | None, dtype: str | None = None) -> V:
    """base ** exponent = exp(exponent ln base).

    Raises:
        CannotLowerError: the base is not positive.
    """
    if base <= 0:
        raise CannotLowerError("a base that is no positive number")
    return em.emit("exp", [em.scale(exponent, math.log(base))], shape, dtype)


# --- products of matrices ---------------------------------------------------------------------------------------------


def linear(em: Emitter[V, C], x: V | C, weight: Parameter, bias: Parameter | None = None) -> V:
    """A linear map on the last axis; the weight is (out, in)."""
    return em.emit("linear", [x], (*shape_of(x)[:-1], weight.shape[0]), parameters={"weight": weight, "bias": bias})


def matmul(em: Emitter[V, C], a: V | C, b: V | C, shape: Shape | None, factor: float = 1.0) -> V:
    """factor * numpy.matmul(a, b), of this shape.

    With a constant matrix it is a linear map of the other operand; of two values it is a product of activations.
    """
    if not isinstance(b, Value) and len(b.shape) >= 2 and all(size == 1 for size in b.shape[:-2]):
        matrix = em.parameter(em.reshaped(b, b.shape[-2:]) if len(b.shape) > 2 else b)
        return em.scale(em.reshape(linear(em, a, matrix.permuted((1, 0))), shape), factor)
    if rank(a) == 1 or rank(b) == 1:
        return _matmul_of_vectors(em, a, b, shape, factor)
    if not isinstance(a, Value) and len(a.shape) == 2:
        swap = last_two_exchanged(rank(b))
        return em.scale(em.transpose(linear(em, em.transpose(b, swap), em.parameter(a)), swap), factor)
    attributes: dict[str, Any] = {} if factor == 1 else {"factor": factor}
    return em.emit("matmul", [a, b], shape, **attributes)


def _matmul_of_vectors(em: Emitter[V, C], a: V | C, b: V | C, shape: Shape | None, factor: float) -> V:
    if shape is None:
        raise CannotLowerError("the shape of a product with a vector is not known")
    whole = (*shape, 1) if rank(b) == 1 else shape
    whole = (*whole[:-1], 1, whole[-1]) if rank(a) == 1 else whole
    rows = em.reshape(a, (1, *shape_of(a))) if rank(a) == 1 else a
    columns = em.reshape(b, (*shape_of(b), 1)) if rank(b) == 1 else b
    return em.reshape(matmul(em, rows, columns, whole, factor), shape)


def last_two_exchanged(axes: int) -> tuple[int, ...]:
    """The permutation that turns a stack of matrices into that of their transposes."""
    return (*range(axes - 2), axes - 1, axes - 2)


def einsum(em: Emitter[V, C], equation: str, operands: Sequence[V | C]) -> V | C:
    """A sum of products: operands are joined one after the other, each join a product of matrices.

    Letters that only one operand has and that are not asked for are summed first.

    Raises:
        CannotLowerError: an operand has a letter twice, or a size is not known.
    """
    equation = equation.replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise CannotLowerError(f"the equation {equation}")
    if not arrow:
        out = "..." * ("..." in left) + "".join(sorted(c for c in set(left) - set(",.") if left.count(c) == 1))
    terms, out = _without_ellipsis(terms, out, [rank(operand) for operand in operands])
    for term, operand in zip(terms, operands, strict=True):
        if len(set(term)) != len(term) or len(term) != rank(operand):
            raise CannotLowerError(f"the equation {equation}")
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, size in zip(term, concrete(operand), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    operands = [
        operand
        if concrete(operand) == (whole := tuple(sizes[letter] for letter in term))
        else em.expand(operand, whole)
        for term, operand in zip(terms, operands, strict=True)
    ]
    found, letters = operands[0], terms[0]
    for at in range(1, len(operands)):
        asked = set(out).union(*terms[at + 1 :])
        found, letters = _joined(em, (found, operands[at]), (letters, terms[at]), asked, sizes)
    return _moved(em, found, letters, out)


_SPARE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _without_ellipsis(terms: Sequence[str], out: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The equation with letters in the place of dots, which stand for the leading axes of a broadcast."""
    spare = [letter for letter in _SPARE if letter not in "".join((*terms, out))]
    counts = [axes - len(term) + 3 if "..." in term else 0 for term, axes in zip(terms, ranks, strict=True)]
    dots = "".join(spare[: max(counts, default=0)])
    named = [term.replace("...", dots[len(dots) - count :]) for term, count in zip(terms, counts, strict=True)]
    return named, out.replace("...", dots)


def _joined(
    em: Emitter[V, C],
    operands: tuple[V | C, V | C],
    terms: tuple[str, str],
    asked: set[str],
    sizes: Mapping[str, int],
) -> tuple[V | C, str]:
    """The product of two operands, summed over what nothing asks for any more, and its letters."""
    a, b = (
        _moved(em, operand, term, "".join(letter for letter in term if letter in asked or letter in other))
        for operand, term, other in zip(operands, terms, terms[::-1], strict=True)
    )
    first, second = (
        "".join(letter for letter in term if letter in asked or letter in other) for term, other in (terms, terms[::-1])
    )
    batch = [letter for letter in first if letter in second and letter in asked]
    out = "".join([*batch, *(x for x in first if x not in second), *(x for x in second if x not in first)])
    return _contracted(em, (a, b), (first, second), out, sizes), out


def _moved(em: Emitter[V, C], x: V | C, letters: str, out: str) -> V | C:
    if set(out) - set(letters):
        raise CannotLowerError(f"the equation {letters}->{out}")
    kept = [letter for letter in letters if letter in out]
    if len(kept) < len(letters):
        axes = tuple(axis for axis, letter in enumerate(letters) if letter not in out)
        shape = tuple(size for axis, size in enumerate(concrete(x)) if axis not in axes)
        x = em.emit("reduce_sum", [x], shape, axes=axes, keepdims=False)
    return em.transpose(x, tuple(kept.index(letter) for letter in out))


def _contracted(
    em: Emitter[V, C], operands: Sequence[V | C], terms: Sequence[str], out: str, sizes: Mapping[str, int]
) -> V | C:
    """Axes in the order (batch, own, summed) and (batch, summed, own), a product of matrices, axes as asked for."""
    a, b = terms
    batch = [letter for letter in out if letter in a and letter in b]
    summed = [letter for letter in a if letter in b and letter not in out]
    own_a = [letter for letter in out if letter in a and letter not in b]
    own_b = [letter for letter in out if letter in b and letter not in a]
    if set(a + b) != {*batch, *summed, *own_a, *own_b} or set(out) - set(a + b):
        raise CannotLowerError("a letter that only one operand has is summed")

    def arranged(operand: V | C, letters: str, rows: Sequence[str], columns: Sequence[str]) -> V | C:
        moved = em.transpose(operand, tuple(letters.index(letter) for letter in (*batch, *rows, *columns)))
        return em.reshape(moved, (*lead, size(rows), size(columns)))

    def size(letters: Sequence[str]) -> int:
        return math.prod(sizes[letter] for letter in letters)

    lead = tuple(sizes[letter] for letter in batch)
    first, second = arranged(operands[0], a, own_a, summed), arranged(operands[1], b, summed, own_b)
    written = [*batch, *own_a, *own_b]
    product = matmul(em, first, second, (*lead, size(own_a), size(own_b)))
    y = em.reshape(product, tuple(sizes[letter] for letter in written))
    return em.transpose(y, tuple(written.index(letter) for letter in out))


# --- entries that are chosen ------------------------------------------------------------------------------------------


def gather(em: Emitter[V, C], data: V | C, indices: V | C, axis: int, shape: Shape | None) -> V:
    """Entries of an axis; of rows of a constant table, by indices that depend on the input, it is an embedding."""
    if not isinstance(indices, Value):
        return em.emit("gather", [data], shape, None, {"indices": em.parameter(em.compact(indices))}, axis=axis)
    if isinstance(data, Value) or axis != 0 or not data.shape:
        return em.emit("gather", [data, indices], shape, axis=axis)
    flat = (data.shape[0], math.prod(data.shape[1:]))
    table = em.parameter(data if data.shape == flat else em.reshaped(data, flat))
    rows = None if indices.shape is None else (*indices.shape, table.shape[1])
    return em.reshape(em.emit("embedding", [indices], rows, table.dtype, {"weight": table}), shape)


def compare(em: Emitter[V, C], kind: str, a: V | C | float, b: V | C | float, shape: Shape | None) -> V:
    """A comparison of real numbers.

    Raises:
        CannotLowerError: they are integers.
    """
    if not any(isinstance(side, Value) and (side.dtype or "").startswith(_FLOATING) for side in (a, b)):
        raise CannotLowerError("a comparison of indices")
    return em.emit("compare", [a, b], shape, "bool", kind=kind)
