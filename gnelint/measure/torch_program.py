"""Runs a traced PyTorch program operation by operation, values named as in the graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch.export.graph_signature import InputKind, InputSpec

from gnelint.analysis.sampling import Sampler
from gnelint.errors import GnelintError, ModelError
from gnelint.ir.graph import Graph
from gnelint.measure.distributed import Team
from gnelint.measure.program import RunSettings, Watch, is_for_caller
from gnelint.measure.regions.sampler import TorchSampler
from gnelint.measure.regions.torch_network import TorchNetwork
from gnelint.measure.sharding import Operation, ShardedNetwork, is_large
from gnelint.measure.torch_runner import Runner, given_inputs, is_forced, user_inputs
from gnelint.readers.torch.operations import operation_name
from gnelint.readers.torch.reader import Traced


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
        self._traced = traced
        self._settings = settings
        self._tensors = tensors or {}
        self._shown: dict[str, list[str]] = defaultdict(list)
        for value, operation in traced.operations.items():
            self._shown[operation].append(value)
        self._forced = is_forced(traced)
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

    def sampler(self) -> Sampler:
        """What runs parts of the network on draws."""
        return TorchSampler(TorchNetwork(self._traced))

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
        runner = Runner(self._program.graph_module, self._settings, self._shown, watch, self._forced)
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
        examples = iter(given_inputs(self._program))
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

    def _examples(self) -> dict[str, Tensor]:
        return {name: value for name, value in user_inputs(self._program).items() if isinstance(value, Tensor)}


def _refused(node: fx.Node | None, error: Exception) -> str:
    place = "" if node is None else f'operation "{node.name}" ({operation_name(node.target)}) '
    lines = str(error).strip().splitlines()
    return f"not verifiable: {place}cannot be run ({type(error).__name__}: {lines[0] if lines else ''})"
