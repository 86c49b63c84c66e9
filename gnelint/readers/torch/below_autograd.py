"""What a trace below autograd has to be told: where gradients end.

There, gradients that a module takes in its forward are operations as others are, and functions that it maps over
samples (torch.vmap) are operations on all of them. What is detached, or computed while no gradients are recorded, looks
like any other value, and autograd itself detaches what it keeps for a backward, which is no end of anything. So the
first two are written as copies (`detach_copy`) while the trace is made, and told apart from the last behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._decomp import decomposition_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

aten = torch.ops.aten


def _convolution_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    """The gradient of a convolution's input: a convolution with the same weights the other way. Others stay as one."""
    if list(wanted) != [True, False, False]:
        return NotImplemented
    if transposed:
        rest = [0] * len(output_padding)
    else:
        sizes = zip(x.shape[2:], gradient.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        rest = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in sizes]
    found = aten.convolution(gradient, weight, None, stride, padding, dilation, not transposed, rest, groups)
    return found, None, None


_SHARED = ("native_layer_norm", "native_group_norm", "native_batch_norm")
"""Operations whose derivatives read statistics that they return beside their result."""

WRITTEN_OUT = {
    **{
        op: way
        for op, way in decomposition_table.items()
        if "backward" in str(op) or any(n in str(op) for n in _SHARED)
    },
    aten.convolution_backward.default: _convolution_backward,
}
"""Derivatives of operations, and what they share with these, in operations that have derivatives."""

_DETACHING = (torch.Tensor.detach, torch.detach)


class _Ends(TorchFunctionMode):  # type: ignore[misc]
    """Copies in the place of what is detached or computed without gradients."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _DETACHING:
            return _ended(args[0])
        found = func(*args, **given)
        name = getattr(func, "__name__", "")
        taken = name == "grad" and not given.get("create_graph", False)  # of torch.autograd: numbers, no function of x
        if taken or (not torch.is_grad_enabled() and not name.endswith("_")):
            return pytree.tree_map_only(torch.Tensor, _ended, found)
        return found


def _ended(tensor: torch.Tensor) -> torch.Tensor:
    return torch.detach_copy(tensor) if tensor.is_floating_point() else tensor


@contextlib.contextmanager
def below_autograd() -> Iterator[None]:
    """While a trace is made: ends of gradients are copies, and composites are what they are written in."""
    with _Ends(), sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
        yield


def tell_detached(graph: fx.Graph) -> None:
    """Copies as the ends of gradients that they stand for; what autograd detached for itself as what it was."""
    for node in list(graph.nodes):
        if node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten.detach_copy.default:
            node.target = aten.detach.default
