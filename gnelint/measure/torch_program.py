"""Runs a traced PyTorch program operation by operation, values named as in the graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind, InputSpec
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from gnelint.errors import GnelintError, ModelError
from gnelint.ir.graph import Graph
from gnelint.measure.distributed import Team
from gnelint.measure.program import RunSettings, Watch, is_for_caller
from gnelint.measure.sharding import Operation, ShardedNetwork, is_large
from gnelint.readers.torch.operations import operation_name
from gnelint.readers.torch.reader import Traced

_DROPOUT = frozenset({"dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
_BATCH_NORM = frozenset(
    {"batch_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit",
     "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training", "_batch_norm_with_update",
     "_batch_norm_with_update_functional", "_batch_norm_no_update"}
)  # fmt: skip


class TorchProgram:
    """A traced program on the module's own parameters, which are copied: the module is never touched.

    Dropout is neutral, as in the analysis, and batch normalisation uses the statistics that the graph says.

    Attributes:
        graph, examples, weights, leaves, updated: see `Program`.
    """

    def __init__(self, traced: Traced, settings: RunSettings, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Take the parameters over.

        Args:
            traced: the program.
            settings: of the run.
            tensors: parameters and buffers that take the place of the program's own, by their names.

        Raises:
            ModelError: parameters are on the meta device and hold no numbers.
        """
        self.graph: Graph = traced.graph
        self._program = traced.program
        self._settings = settings
        self._tensors = tensors or {}
        self._shown: dict[str, list[str]] = defaultdict(list)
        for value, operation in traced.operations.items():
            self._shown[operation].append(value)
        self._forced = _is_forced(traced)
        self._nodes = [node for node in traced.program.graph.nodes if node.op not in ("placeholder", "output")]
        self._constants, self._targets = self._own_constants()
        self._placed = False
        self._sharded: ShardedNetwork | None = None
        self.examples: Mapping[str, Tensor] = self._examples()
        self.weights = self._trained()

    @property
    def leaves(self) -> Mapping[str, Tensor]:
        """Weights by the names of the graph's parameters."""
        sharded = {} if self._sharded is None else self._sharded.leaves
        found = {**self._constants, **sharded}
        return {
            target: found[name]
            for target, name in self._targets.items()
            if isinstance(found.get(name), Tensor) and found[name].is_floating_point()
        }

    @property
    def updated(self) -> Sequence[Tensor]:
        """The tensors that training changes."""
        own = [constant for constant in self._constants.values() if isinstance(constant, Tensor)]
        sharded = [] if self._sharded is None else list(self._sharded.parameters())
        return [tensor for tensor in (*own, *sharded) if tensor.requires_grad]

    def ask_gradients(self, names: frozenset[str]) -> None:
        """Have gradients recorded for the weights of these names, and no others."""
        self._place()
        asked = {self._targets[target] for target in names if target in self._targets}
        for name, constant in self._constants.items():
            if isinstance(constant, Tensor) and constant.is_floating_point():
                constant.requires_grad_(name in asked)
        if self._sharded is not None:
            self._sharded.ask_gradients(frozenset(asked))

    def shard(self, team: Team) -> None:
        """Spread the large weights over a team, each process of which calls this before the network runs."""
        large = {name: constant for name, constant in self._constants.items() if is_large(constant)}
        for name in large:
            del self._constants[name]
        self._place()
        outputs = [node.name for node in self._program.graph.output_node().all_input_nodes]
        same = self._same_placeholders()
        operations = [
            Operation(tuple(same.get(read.name, read.name) for read in node.all_input_nodes), (node.name,))
            for node in self._nodes
        ]
        self._sharded = ShardedNetwork(
            operations, large, [same.get(name, name) for name in outputs], team, self._settings
        )

    def run(self, feeds: Mapping[str, Any], watch: Watch) -> None:
        """Run the program.

        Raises:
            ModelError: an operation raised; the message names it.
        """
        self._place()
        runner = _Runner(self._program.graph_module, self._settings, self._shown, watch, self._forced)
        runner.bind(self._same_placeholders())
        data = {**self._constants, **{name: runner.show(name, fed) for name, fed in self._fed(feeds).items()}}

        def run(numbers: Sequence[int], known: Mapping[str, Any]) -> Mapping[str, Any]:
            return runner.run_part([self._nodes[number] for number in numbers], known)

        try:
            if self._sharded is None:
                run(range(len(self._nodes)), data)
            else:
                self._sharded.run(data, run)
        except GnelintError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if is_for_caller(error):
                raise
            raise ModelError(self.graph.name, _refused(runner.current, error)) from error

    def _fed(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The user's inputs by the names of their placeholders."""
        examples = iter(self._user_inputs())
        fed = {}
        for placeholder, spec in self._placeholders():
            if spec.kind is InputKind.USER_INPUT:
                fed[placeholder.name] = self._settings.placed(feeds.get(spec.arg.name, next(examples, None)))
        return fed

    def _placeholders(self) -> Iterator[tuple[fx.Node, InputSpec]]:
        nodes = [node for node in self._program.graph.nodes if node.op == "placeholder"]
        return zip(nodes, self._program.graph_signature.input_specs, strict=True)

    def _own_constants(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Constants by the name of the first placeholder that stands for them, and that name by the constant's own:
        one that the module has under several names is one."""
        given = {**self._program.constants, **self._program.state_dict, **self._tensors}
        constants: dict[str, Any] = {}
        targets: dict[str, str] = {}
        seen: dict[int, str] = {}
        for placeholder, spec in self._placeholders():
            if spec.kind is InputKind.USER_INPUT:
                continue
            value = given[str(spec.target)]
            if isinstance(value, Tensor) and value.device.type == "meta":
                raise ModelError(
                    self.graph.name,
                    f'parameter "{spec.target}" is on the meta device and holds no numbers, so nothing can be run',
                    "Build the module on a real device, or use gnelint check.",
                )
            name = seen.setdefault(id(value), placeholder.name)
            targets[str(spec.target)] = name
            constants[name] = value
        return constants, targets

    def _trained(self) -> frozenset[str]:
        """The module's parameters that ask for a gradient, under the names that the graph knows them by."""
        return frozenset(
            str(spec.target)
            for _, spec in self._placeholders()
            if spec.kind is InputKind.PARAMETER and self._constants[self._targets[str(spec.target)]].requires_grad
        )

    def _same_placeholders(self) -> dict[str, str]:
        """The name under which each placeholder's constant is kept."""
        return {
            placeholder.name: self._targets[str(spec.target)]
            for placeholder, spec in self._placeholders()
            if spec.kind is not InputKind.USER_INPUT
        }

    def _place(self) -> None:
        """Copy the constants to where and into the type in which they are wanted, once."""
        if self._placed:
            return
        self._placed = True
        for name, value in self._constants.items():
            if isinstance(value, Tensor):
                self._constants[name] = self._settings.placed(value.detach()).clone()

    def _user_inputs(self) -> list[Any]:
        """The example inputs in the order of the program's own, if it has kept them."""
        found = self._program.example_inputs
        return [] if found is None else pytree.tree_leaves(found)

    def _examples(self) -> dict[str, Tensor]:
        specs = [s for s in self._program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
        pairs = zip(specs, self._user_inputs(), strict=False)
        return {spec.arg.name: value for spec, value in pairs if isinstance(value, Tensor)}


class _Runner(fx.Interpreter):  # type: ignore[misc]  # torch is not followed
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


def _by_name(target: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """An operation's arguments by the names of its schema, defaults filled in."""
    schema = target._schema.arguments
    given = dict(zip((argument.name for argument in schema), args, strict=False)) | dict(kwargs)
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def _is_forced(traced: Traced) -> bool:
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


def _refused(node: fx.Node | None, error: Exception) -> str:
    place = "" if node is None else f'operation "{node.name}" ({operation_name(node.target)}) '
    lines = str(error).strip().splitlines()
    return f"not verifiable: {place}cannot be run ({type(error).__name__}: {lines[0] if lines else ''})"
