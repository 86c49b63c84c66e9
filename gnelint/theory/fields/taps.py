"""Which output position reads which input position through which tap, one spatial axis at a time.

Source: theory 3.2: V[p, t] = 1 if p * stride + t * dilation - pad lies inside the input; everything is
separable over the axes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gnelint.records import cached_property, dataclass


@dataclass(frozen=True)
class TapAxis:
    """One spatial axis of a convolution or a pooling window.

    Attributes:
        inputs, outputs: sizes of the axis before and behind.
        taps: kernel size.
        stride, pad, dilation: as usual; pad is the one at the beginning.
    """

    inputs: int
    outputs: int
    taps: int
    stride: int
    pad: int
    dilation: int

    @cached_property
    def spans(self) -> tuple[tuple[slice, slice], ...]:
        """For each tap the outputs at which it is inside the input, and the inputs it reads there."""
        found = []
        for tap in range(self.taps):
            offset = tap * self.dilation - self.pad
            first = max(0, -(offset // self.stride)) if offset < 0 else 0
            last = min(self.outputs - 1, (self.inputs - 1 - offset) // self.stride)
            if last < first:
                found.append((slice(0, 0), slice(0, 0)))
                continue
            start = first * self.stride + offset
            found.append((slice(first, last + 1), slice(start, last * self.stride + offset + 1, self.stride)))
        return tuple(found)

    @cached_property
    def counts(self) -> np.ndarray:
        """Number of outputs at which each tap is inside the input."""
        return np.array([where.stop - where.start for where, _ in self.spans], dtype=np.float64)

    @cached_property
    def meetings(self) -> tuple[np.ndarray, np.ndarray]:
        """At how many outputs two taps are inside together, and how many inputs both reach: (taps, taps) each.

        The outputs of a tap are a run, its inputs one in steps of the stride: two of the same remainder overlap.
        """
        first = np.array([where.start for where, _ in self.spans])
        begin = np.array([source.start for _, source in self.spans])
        counts = self.counts.astype(int)

        def overlap(start: np.ndarray, step: int) -> np.ndarray:
            end = start + step * counts
            shared = np.minimum(end[:, None], end) - np.maximum(start[:, None], start)
            return np.where((start[:, None] - start) % step == 0, np.maximum(shared, 0) // step, 0).astype(np.float64)

        return overlap(first, 1), overlap(begin, self.stride)

    def gather(self, profile: np.ndarray | None) -> np.ndarray:
        """(taps, outputs): the input profile that each tap sees at each output, 0 outside."""
        seen = np.zeros((self.taps, self.outputs))
        for tap, (where, source) in enumerate(self.spans):
            seen[tap, where] = 1.0 if profile is None else profile[source]
        return seen

    def scatter(self, profile: np.ndarray | None) -> np.ndarray:
        """(taps, inputs): what each tap sends back to each input from an output profile."""
        sent = np.zeros((self.taps, self.inputs))
        for tap, (where, source) in enumerate(self.spans):
            sent[tap, source] = 1.0 if profile is None else profile[where]
        return sent


tap_axis = lru_cache(maxsize=256)(TapAxis)
"""An axis: a network's layers are of few kinds, and what is worked out of one serves all of its kind."""


def outer(vectors: list[np.ndarray]) -> np.ndarray:
    """Products of one entry from each vector, flattened in the order of a kernel's taps."""
    product = vectors[0] if vectors else np.ones(1)
    for vector in vectors[1:]:
        product = (product[:, None] * vector).reshape(-1)
    return product


def marginals(weights: np.ndarray, sizes: tuple[int, ...], others: list[np.ndarray]) -> list[np.ndarray]:
    """Weight of each tap along each axis: `weights` over all taps, summed over the other axes' taps times `others`."""
    grid = weights.reshape(sizes)
    found = []
    for axis in range(len(sizes)):
        reduced = grid
        for other in reversed(range(axis + 1, len(sizes))):
            reduced = reduced @ others[other]
        for other in range(axis):
            reduced = others[other] @ reduced.reshape(sizes[other], -1)
        found.append(reduced.reshape(-1))
    return found


def kron(matrices: list[np.ndarray]) -> np.ndarray:
    """Kronecker product: of (taps, taps) along each axis, over all of a kernel's taps. (`numpy.kron` takes ten times as
    long for matrices as small as these.)"""
    whole = matrices[0] if matrices else np.ones((1, 1))
    for matrix in matrices[1:]:
        size = len(whole) * len(matrix)
        whole = (whole[:, None, :, None] * matrix[None, :, None, :]).reshape(size, size)
    return whole
