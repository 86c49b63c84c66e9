"""Runs operations of a traced PyTorch program and shows what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from gnelint.measure.program import RunSettings, Watch
from gnelint.readers.torch.operations import operation_name
from gnelint.readers.torch.reader import Traced

_DROPOUT = frozenset({"dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
_BATCH_NORM = frozenset(
    {"batch_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit",
     "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training", "_batch_norm_with_update",
     "_batch_norm_with_update_functional", "_batch_norm_no_update"}
)  # fmt: skip


class Runner(fx.Interpreter):  # type: ignore[misc]  # torch is not followed
    """Runs the program and shows what it computes."""

    def __init__(
        self,
        module: fx.GraphModule,
        settings: RunSettings,
        shown: Mapping[str, list[str]],
        watch: Watch,
        forced: bool,
    ) -> None:
        super().__init__(module)
        self._settings = settings
        self._shown = shown
        self._watch = watch
        self._forced = forced
        self.current: fx.Node | None = None
        self._bound: dict[str, list[fx.Node]] = {}

    def bind(self, same: Mapping[str, str]) -> None:
        """Say under which name each placeholder's data comes; all other nodes go by their own."""
        for node in self.module.graph.nodes:
            self._bound.setdefault(same.get(node.name, node.name), []).append(node)

    def run_part(self, nodes: Sequence[fx.Node], data: Mapping[str, Any]) -> dict[str, Any]:
        """Run these nodes on data by name; returns what they make and others still read, by name."""
        self.env = {node: datum for name, datum in data.items() for node in self._bound[name]}
        for node in nodes:
            self.env[node] = self.run_node(node)
            for dead in self.user_to_last_uses.get(node, ()):
                self.env.pop(dead, None)
        return {node.name: self.env[node] for node in nodes if node in self.env}

    def run_nodes(self, nodes: Sequence[fx.Node], data: Mapping[fx.Node, Any]) -> None:
        """Run these nodes on data by node; what they make is shown."""
        self.env = dict(data)
        for node in nodes:
            self.env[node] = self.run_node(node)

    def run_node(self, n: fx.Node) -> Any:
        """The operation's result, or what the watch puts in its place."""
        self.current = n
        return self.show(n.name, super().run_node(n))

    def show(self, name: str, result: Any) -> Any:
        """What the watch puts in the place of an operation's result."""
        if isinstance(result, Tensor) and result.is_floating_point():
            for value in self._shown.get(name, ()):
                result = self._watch(value, result)
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A constant of the program, where and in the type that the run wants it."""
        return self._settings.placed(super().get_attr(target, args, kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation; types and devices that are written into it are those of the run."""
        args, kwargs = pytree.tree_map(self._own, args), pytree.tree_map(self._own, dict(kwargs))
        name = operation_name(target)
        if name in _DROPOUT:
            return (args[0], None) if name == "native_dropout" else args[0]
        if name in _BATCH_NORM:
            return self._batch_norm(target, args, kwargs)
        if name in ("view", "_unsafe_view"):  # what was contiguous when it was traced need not be so here
            return args[0].reshape(args[1])
        if name == "copy":  # has no derivative, being what a write in place is traced as
            return args[1].to(args[0].dtype).expand(args[0].shape)
        if name in ("slice_scatter", "select_scatter") and args[0].is_complex():
            return _into_complex(target, args, kwargs)
        if name == "scaled_dot_product_attention":
            kwargs = {**_by_name(target, args, kwargs), "dropout_p": 0.0}
            return target(**kwargs)
        return super().call_function(target, args, kwargs)

    def _own(self, argument: Any) -> Any:
        if argument is torch.float32:
            return self._settings.float32
        if isinstance(argument, torch.device) and argument.type != "meta":
            return self._settings.device
        return argument

    def _batch_norm(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Batch normalisation in a form that is differentiable both ways; running statistics stay as they are."""
        given = _by_name(target, args, kwargs)
        mean, variance = given.get("running_mean"), given.get("running_var")
        named = bool(given.get("training", given.get("train", False))) or "with_update" in operation_name(target)
        training = named or self._forced or mean is None
        result = F.batch_norm(
            given["input"],
            None if training else mean,
            None if training else variance,
            given.get("weight"),
            given.get("bias"),
            training,
            0.0,
            float(given.get("eps", given.get("epsilon", 1e-5))),
        )
        if len(target._schema.returns) == 1:
            return result
        return (result, None, None, mean, variance, None)[: max(3, len(target._schema.returns))]


def user_inputs(program: ExportedProgram) -> dict[str, Any]:
    """The example inputs by the names of their placeholders, if the program has kept them."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    return {spec.arg.name: value for spec, value in zip(specs, given_inputs(program), strict=False)}


def given_inputs(program: ExportedProgram) -> list[Any]:
    """The example inputs in the order of the program's own."""
    found = program.example_inputs
    return [] if found is None else pytree.tree_leaves(found)


def _into_complex(target: Any, args: Any, kwargs: Any) -> Tensor:
    """A write into a complex tensor, of which torch has no derivative: one into its parts."""
    given = _by_name(target, args, kwargs)
    parts = {name: torch.view_as_real(given[name].resolve_conj()) for name in ("self", "src")}
    return torch.view_as_complex(target(**{**given, **parts, "dim": given["dim"] % args[0].dim()}))


def _by_name(target: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """An operation's arguments by the names of its schema, defaults filled in."""
    schema = target._schema.arguments
    given = dict(zip((argument.name for argument in schema), args, strict=False)) | dict(kwargs)
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def is_forced(traced: Traced) -> bool:
    """Whether the graph was read with batch statistics although the program was exported with running ones."""
    in_graph = any(node.op == "batch_norm" and node.attribute("training") for node in traced.graph.nodes)
    norms = [node for node in traced.program.graph.nodes if operation_name(node.target) in _BATCH_NORM]
    return in_graph and not any(_training_argument(node) for node in norms)


def _training_argument(node: fx.Node) -> bool:
    names = [argument.name for argument in node.target._schema.arguments]
    for name in ("training", "train"):
        if name in names:
            position = names.index(name)
            return bool(node.args[position] if position < len(node.args) else node.kwargs.get(name, False))
    return "with_update" in operation_name(node.target)
