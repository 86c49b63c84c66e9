"""What a traced program computes from its parameters alone, kept as recipes that run when the numbers are asked for.

A weight-normalised kernel, a standardised one, a table of position biases, a slice of a packed projection: none of them
depends on the network's input, so each is one `Parameter` of the graph. A dropout mask depends on no input either, but
it is drawn anew in every pass; it is recognised here so that multiplying by it can be read as dropout.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import fx

from gnelint.errors import ModelError
from gnelint.ir.graph import Derivation, Parameter, Provenance, Stored, TensorKind, foremost
from gnelint.ir.laws import Drawn, Law
from gnelint.readers.torch.initializers import InitializerRecorder, seeded
from gnelint.readers.torch.masks import Mask, find_mask
from gnelint.readers.torch.names import user_location
from gnelint.readers.torch.operations import (
    DROPOUT,
    PART_VIEWS,
    RANDOM,
    UNWRITTEN,
    WHOLE_VIEWS,
    operation_name,
    shape_only,
)
from gnelint.records import dataclass

RANDOM_SEED = 0
"""Seed of the draws that stand in for noise a forward pass adds (not dropout masks, which are neutral)."""

SLOPE_ENTRIES = 1 << 16
"""Numbers of the tensors of a recipe up to which its derivative is looked at."""

EXTENSION_TYPES = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e4m3fnuz: (torch.uint8, ml_dtypes.float8_e4m3fnuz),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
    torch.float8_e5m2fnuz: (torch.uint8, ml_dtypes.float8_e5m2fnuz),
}
"""Types that numpy lacks: the integer type of the same width to view them as, and the type to read that as."""

Tensors = Mapping[str, torch.Tensor]
"""Tensors that take the place of the module's own, by qualified name."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that depends on parameters alone.

    Attributes:
        name: the first qualified name of the parameter it is, or one derived from that.
        shape, dtype: of the tensor that `compute` returns.
        compute: runs the recipe, on changed tensors where it is given some by name; a view on the module's own tensor
            where there is nothing to compute.
        transform, provenance, kind: as in `graph.Parameter`.
        mask: the two values of a random tensor that has no others; None for everything else.
        base: the same numbers before they were expanded by broadcasting, None if they were not.
        leaves: the tensors of the module that it is computed from, none where it is one itself.
        slopes: as in `graph.Derivation`, if anybody asks.
        law: of its entries where nobody has drawn them and they are independent, None otherwise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    compute: Callable[[Tensors], torch.Tensor]
    transform: str | None = None
    provenance: Provenance = "data"
    mask: Mask | None = None
    base: Constant | None = None
    leaves: tuple[Constant, ...] = ()
    kind: TensorKind = "constant"
    law: Law | None = None
    slopes: Callable[[], Mapping[str, float]] = dict

    @property
    def compact(self) -> Constant:
        """The numbers without the repetition that broadcasting would do by itself."""
        return self if self.base is None else self.base.compact

    def reshaped(self, shape: tuple[int, ...]) -> Constant:
        """The same numbers in another shape."""
        compute = self.compute
        return replace(
            self, shape=shape, compute=lambda changed: compute(changed).reshape(shape), base=None, leaves=self.stored
        )

    def transposed(self, order: tuple[int, ...]) -> Constant:
        """The same numbers with the axes in another order."""
        compute, shape = self.compute, tuple(self.shape[axis] for axis in order)
        return replace(
            self, shape=shape, compute=lambda changed: compute(changed).permute(order), base=None, leaves=self.stored
        )

    @property
    def stored(self) -> tuple[Constant, ...]:
        """The tensors of the module that its numbers come from."""
        return self.leaves or (self,)

    def parameter(self, permutation: tuple[int, ...] | None = None) -> Parameter:
        """The graph's view of it, with its axes reordered as `permutation` says."""
        found = Parameter(
            name=self.name,
            shape=self.shape,
            dtype=self.dtype,
            load=self._loader(),
            provenance=self.provenance,
            transform=self.transform,
            kind=self.kind,
        )
        return found if permutation is None else found.permuted(permutation)

    def _loader(self) -> Callable[[], np.ndarray]:
        if self.leaves:
            return _ComputedOfDrawn(self) if self.law is not None else _Computed(self)
        return _ToDraw(self) if self.law is not None else partial(_load, self)


def _load(constant: Constant, changed: Tensors = MappingProxyType({})) -> np.ndarray:
    if constant.provenance == "placeholder":
        return np.broadcast_to(np.float32(0.0), constant.shape)
    return to_numpy(constant.compute(changed))


@dataclass(frozen=True, eq=False)
class _Computed(Derivation):
    """The `load` of a constant that is computed from others."""

    constant: Constant

    def leaves(self) -> tuple[Parameter, ...]:
        return tuple({leaf.name: leaf.parameter() for leaf in self.constant.leaves}.values())

    def slopes(self) -> Mapping[str, float]:
        kept: Mapping[str, float] | None = self.__dict__.get("_slopes")
        if kept is None:
            sizes = sum(math.prod(leaf.shape) for leaf in self.constant.leaves)
            known = all(leaf.provenance == "data" for leaf in self.constant.leaves)
            kept = self.__dict__["_slopes"] = self.constant.slopes() if known and sizes <= SLOPE_ENTRIES else {}
        return kept

    def evaluate(self, changed: Stored) -> np.ndarray:
        return _load(self.constant, {name: from_numpy(array) for name, array in changed.items()})


@dataclass(frozen=True, eq=False)
class _ToDraw(Drawn):
    """The `load` of a tensor without numbers whose initialiser says the law of its entries."""

    constant: Constant

    @property
    def law(self) -> Law:
        assert self.constant.law is not None
        return self.constant.law

    def __call__(self) -> np.ndarray:
        if self.law.variance:
            return _load(self.constant)
        return to_numpy(torch.full(self.constant.shape, self.law.mean, dtype=getattr(torch, self.constant.dtype)))


@dataclass(frozen=True, eq=False)
class _ComputedOfDrawn(_Computed, _ToDraw):
    """The `load` of a view on, or a part of, such a tensor."""


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """The tensor of an array that `to_numpy` could have made; it shares no memory with it."""
    for dtype, (same_width, extension) in EXTENSION_TYPES.items():
        if array.dtype == np.dtype(extension):
            integers = np.dtype(str(same_width).removeprefix("torch."))
            return torch.from_numpy(np.array(array).view(integers)).view(dtype)
    return torch.from_numpy(np.array(array))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A view on the tensor's numbers (a copy only where they are on another device or not dense)."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    if tensor.dtype in EXTENSION_TYPES:
        same_width, extension = EXTENSION_TYPES[tensor.dtype]
        array: np.ndarray = tensor.view(same_width).numpy().view(extension)
        return array
    found: np.ndarray = tensor.numpy()
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """numpy's (or ml_dtypes') name of a torch type."""
    return str(dtype).removeprefix("torch.")


def scalar(value: float, dtype: str) -> Constant:
    """A single number written in the program, as a tensor without axes."""
    kind = getattr(torch, dtype)
    return Constant(f"constant {value:g}", (), dtype, lambda changed: torch.tensor(value, dtype=kind))


def derived(function: Callable[..., torch.Tensor], *operands: Any) -> Constant:
    """What `function` makes of constants and numbers; shape and type come from running it on the meta device."""
    tensors = [operand for operand in operands if isinstance(operand, Constant)]
    shadows = [
        torch.empty(operand.shape, dtype=getattr(torch, operand.dtype), device="meta")
        if isinstance(operand, Constant)
        else operand
        for operand in operands
    ]
    result = function(*shadows)
    first = tensors[0]
    return Constant(
        name=f"{first.name}:{function.__name__}",
        shape=tuple(result.shape),
        dtype=dtype_name(result.dtype),
        compute=lambda changed: function(*[o.compute(changed) if isinstance(o, Constant) else o for o in operands]),
        transform="computed",
        provenance=weakest([tensor.provenance for tensor in tensors]),
        leaves=tuple(leaf for tensor in tensors for leaf in tensor.stored),
        kind=foremost(tensor.kind for tensor in tensors),
    )


def weakest(provenances: Sequence[Provenance]) -> Provenance:
    """How far numbers derived from several tensors can be trusted: no further than the worst of them."""
    for provenance in ("placeholder", "initializer"):
        if provenance in provenances:
            return provenance
    return "data"


class ConstantFolder:
    """Keeps the part of an fx graph that depends on parameters alone, and runs pieces of it on demand."""

    def __init__(self) -> None:
        self._leaves: dict[fx.Node, Constant] = {}
        self._folded: dict[fx.Node, None] = {}
        self._constants: dict[fx.Node, Constant] = {}
        self._names: set[str] = set()

    def add_leaf(
        self,
        node: fx.Node,
        name: str,
        tensor: torch.Tensor,
        kind: TensorKind,
        recorder: InitializerRecorder | None = None,
        read: Callable[[], torch.Tensor] | None = None,
    ) -> None:
        """Declare a parameter, buffer or lifted constant; tied tensors come with the same name.

        One on the meta device is drawn from the initialiser that `recorder` saw, if it saw one; the numbers of one in a
        file are what `read` returns.
        """
        provenance: Provenance = "placeholder" if tensor.is_meta else "data"
        drawn = recorder if tensor.is_meta and recorder is not None and recorder.knows(tensor) else None
        if drawn is not None:
            provenance = "initializer"

        def compute(changed: Tensors) -> torch.Tensor:
            if name in changed:
                return changed[name]
            if drawn is not None:
                return drawn.draw(tensor)
            return tensor if read is None else read()

        law = None if drawn is None else drawn.law(tensor)
        shape = tuple(tensor.shape)
        constant = Constant(name, shape, dtype_name(tensor.dtype), compute, None, provenance, kind=kind, law=law)
        self._leaves[node] = constant
        self._constants[node] = constant
        self._names.add(name)

    def fold(self, node: fx.Node) -> bool:
        """Take the node in if it depends on parameters alone; tells whether it does."""
        value = node.meta.get("val")
        if not isinstance(node.target, torch._ops.OpOverload) and operation_name(node.target) != "getitem":
            return False
        tensors = value if isinstance(value, (list, tuple)) else (value,)
        if not all(isinstance(tensor, torch.Tensor) and _is_concrete(tensor) for tensor in tensors):
            return False
        name = operation_name(node.target)
        if name in DROPOUT:
            return False
        shown = shape_only(node)
        read = [found for found in node.all_input_nodes if found is not shown]
        if shown is not None and not _is_concrete(shown.meta["val"]):
            return False
        if not all(map(self.knows, read)):
            return False
        self._folded[node] = None
        return True

    def knows(self, node: fx.Node) -> bool:
        """Whether the node is a leaf or was taken in."""
        return node in self._leaves or node in self._folded

    def constant(self, node: fx.Node) -> Constant | None:
        """The constant a node stands for; None if it depends on the input, or is several tensors at once."""
        if node in self._constants:
            return self._constants[node]
        value = node.meta.get("val")
        if node not in self._folded or not isinstance(value, torch.Tensor):
            return None
        ancestors = self._ancestors(node)
        leaves = [self._leaves[found] for found in ancestors if found in self._leaves]
        names = {operation_name(found.target) for found in ancestors if found not in self._leaves}
        transform = _transform(names)
        found = Constant(
            name=self._name(node, leaves, names),
            shape=tuple(value.shape),
            dtype=dtype_name(value.dtype),
            compute=lambda changed: self._run(node, changed),
            transform=transform,
            provenance="initializer" if transform == "random" else weakest([leaf.provenance for leaf in leaves]),
            mask=find_mask(node, self._ancestors, self.knows) if transform == "random" else None,
            base=self._base(node),
            leaves=tuple(leaves),
            kind=foremost(leaf.kind for leaf in self._with_gradient(node, leaves)),
            slopes=lambda: self._slopes(node),
            law=leaves[0].law if len(leaves) == 1 and names <= _KEEPING_LAW else None,
        )
        self._constants[node] = found
        return found

    def _base(self, node: fx.Node) -> Constant | None:
        if operation_name(node.target) == "expand":
            return self.constant(node.args[0])
        if operation_name(node.target) in ("clone", "alias", "detach"):
            source = self.constant(node.args[0])
            return source.base if source is not None else None
        return None

    def _name(self, node: fx.Node, leaves: Sequence[Constant], names: set[str]) -> str:
        """The leaf's own name while all its numbers are there; otherwise a new one that shows where it comes from."""
        if len(leaves) == 1 and names <= WHOLE_VIEWS:
            return leaves[0].name
        first = next((leaf.name for leaf in leaves), "")
        wanted = _parametrized_name(first, names) or (f"{first}:{node.name}" if first else node.name)
        name, count = wanted, 0
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    def _ancestors(self, node: fx.Node) -> list[fx.Node]:
        """The node and the constant nodes it is computed from, in an order to run them in."""
        order: dict[fx.Node, None] = {}
        stack: list[tuple[fx.Node, bool]] = [(node, False)]
        while stack:
            current, expanded = stack.pop()
            if current in order:
                continue
            if expanded or current in self._leaves:
                order[current] = None
                continue
            stack.append((current, True))
            stack.extend((source, False) for source in reversed(current.all_input_nodes) if self.knows(source))
        return list(order)

    def _with_gradient(self, node: fx.Node, leaves: Sequence[Constant]) -> list[Constant]:
        """The leaves that a gradient gets to, and all that none is asked of; a detached or rounded one is a number."""
        reached: dict[fx.Node, None] = {}
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if current in reached or not _passes_gradient(current):
                continue
            reached[current] = None
            waiting.extend(source for source in current.all_input_nodes if self.knows(source))
        own = [self._leaves[found] for found in reached if found in self._leaves]
        return [leaf for leaf in leaves if leaf.kind != "parameter" or leaf in own]

    def _run(self, node: fx.Node, changed: Tensors) -> torch.Tensor:
        with torch.no_grad():
            return self._computed(node, lambda leaf: leaf.compute(changed).detach().cpu())

    def _slopes(self, node: fx.Node) -> Mapping[str, float]:
        """What is flat counts as flat only if it stays so when all that is not has moved."""
        with contextlib.suppress(ModelError, RuntimeError):
            slopes = self._slopes_with(node, frozenset())
            moving = frozenset[str]()
            while (found := frozenset(name for name, slope in slopes.items() if slope != 0.0)) != moving:
                moving = found
                if len(moving) == len(slopes):
                    break
                later = self._slopes_with(node, moving)
                slopes = {name: slopes[name] or later.get(name, 0.0) for name in slopes}
            return slopes
        return {}

    def _slopes_with(self, node: fx.Node, moved: frozenset[str]) -> dict[str, float]:
        """The largest slopes, with some of the tensors a step away from where they are."""
        asked: dict[str, torch.Tensor] = {}
        random = torch.Generator().manual_seed(RANDOM_SEED)

        def given(leaf: Constant) -> torch.Tensor:
            tensor = leaf.compute({}).detach().cpu()
            if leaf.kind != "parameter" or not tensor.is_floating_point():
                return tensor
            step = torch.randn(tensor.shape, generator=random).to(tensor.dtype) * 0.1 if leaf.name in moved else 0.0
            return asked.setdefault(leaf.name, (tensor + step).requires_grad_())

        with torch.enable_grad():
            made = self._computed(node, given)
            if not made.requires_grad:
                return {}
            cotangent = torch.randn(made.shape, generator=random).to(made.dtype)
            found = torch.autograd.grad(made, tuple(asked.values()), cotangent, allow_unused=True)
        with_slope = ((name, slope) for name, slope in zip(asked, found, strict=True) if slope is not None)
        return {name: float(slope.abs().max()) for name, slope in with_slope if slope.numel()}

    def _computed(self, node: fx.Node, given: Callable[[Constant], torch.Tensor]) -> torch.Tensor:
        """What the recipe makes of what is given for the tensors it reads."""
        results: dict[fx.Node, Any] = {}

        def operand(source: fx.Node) -> Any:
            if source in results:
                return results[source]
            shape = source.meta["val"]  # only its shape is read
            return torch.zeros(tuple(shape.shape), dtype=shape.dtype)

        order = self._ancestors(node)
        draws = any(operation_name(found.target) in RANDOM for found in order)
        with seeded(RANDOM_SEED) if draws else contextlib.nullcontext():
            for current in order:
                if current in self._leaves:
                    results[current] = given(self._leaves[current])
                    continue
                args, found_kwargs = fx.map_arg((current.args, current.kwargs), operand)
                kwargs = dict(found_kwargs)  # fx's own dictionaries cannot be changed
                if "device" in kwargs:
                    kwargs["device"] = torch.device("cpu")
                try:
                    made = current.target(*args, **kwargs)
                except (IndexError, RuntimeError, ValueError) as error:
                    raise _not_computed(current, error) from error
                # memory that nobody has written to holds anything; the same each time is needed
                results[current] = made.zero_() if operation_name(current.target) in UNWRITTEN else made
        found: torch.Tensor = results[node]
        return found


def _not_computed(node: fx.Node, error: Exception) -> ModelError:
    """An error for people where what a module computes of its own tensors fails: tracing looks at shapes alone."""
    place = user_location(node.meta.get("stack_trace"))
    subject = node.name if place is None else f"{place.file}:{place.line}"
    said = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return ModelError(
        subject,
        f"what {operation_name(node.target)} computes of the module's own tensors fails: {said}",
        "Run the module on such inputs by itself: it fails there too.",
    )


_KEEPING_LAW = (WHOLE_VIEWS | PART_VIEWS) - {"expand", "expand_as"}
"""Views whose entries are as independent as those of the tensor they look at."""


_NO_GRADIENT = frozenset({"detach", "sign", "round", "floor", "ceil", "trunc"})
"""Operations on floating numbers that pass no gradient on."""


def _passes_gradient(node: fx.Node) -> bool:
    value = node.meta.get("val")
    whole = isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_complex()
    return not whole and (node.op != "call_function" or operation_name(node.target) not in _NO_GRADIENT)


def _is_concrete(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and all(isinstance(size, int) for size in tensor.shape)


_LARGEST_SINGULAR = frozenset({"linalg_matrix_norm", "linalg_svd", "_linalg_svd", "linalg_svdvals", "svd"})
_ON_VECTORS = frozenset({"mv", "matmul", "mm", "bmm", "linear", "addmv", "einsum"})
"""Products of the weight with the vectors of a power iteration."""


def _transform(names: set[str]) -> str | None:
    if names & RANDOM:
        return "random"
    if names <= WHOLE_VIEWS | PART_VIEWS:
        return None
    if "_weight_norm" in names or "_weight_norm_interface" in names:
        return "weight_norm"
    if any(name.startswith(("var", "std", "_native_batch_norm", "native_batch_norm", "batch_norm")) for name in names):
        return "weight_standardization"
    if names & _LARGEST_SINGULAR or (names & _ON_VECTORS and names & {"linalg_vector_norm", "norm", "dot", "vdot"}):
        return "spectral_norm"
    if names & {"linalg_vector_norm", "norm"}:
        return "weight_norm"
    return "computed"


def _parametrized_name(leaf: str, names: set[str]) -> str | None:
    """The attribute that a reparametrisation computes: "conv.weight" of "conv.parametrizations.weight.original0"."""
    match = re.fullmatch(r"(?:(?P<module>.*)\.)?parametrizations\.(?P<attribute>\w+)\.original\d*", leaf)
    if match is not None:
        return ".".join(part for part in (match["module"], match["attribute"]) if part)
    if "_weight_norm" in names and leaf.endswith(("_g", "_v")):
        return leaf[:-2]
    return None
