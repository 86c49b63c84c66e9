"""Opens whatever a user points at so that it can be run, with another batch size where memory asks for one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gnelint.errors import ModelError, UsageError
from gnelint.ir.graph import Graph
from gnelint.measure.onnx_program import OnnxProgram
from gnelint.measure.program import Program, RunSettings
from gnelint.measure.torch_program import TorchProgram
from gnelint.readers.inputs import InputSpec
from gnelint.readers.onnx.reader import read as read_onnx
from gnelint.readers.target import Target
from gnelint.readers.torch.reader import Traced, trace_pt2
from gnelint.readers.torch.target import Loaded, load_python
from gnelint.records import dataclass


@dataclass(frozen=True)
class Source:
    """What is to be measured: a target of the command line, or a module in hand.

    Attributes:
        name: what it is called in reports.
        training: normalise by batch statistics.
        inputs: shapes as `--input` gives them.
        target: a file or a Python target that has not been built.
        loaded: a module with its example inputs.
        traced: what was read of the module already.
        tensors: what takes the place of the traced module's parameters and buffers, by name; None for its own.
    """

    name: str
    training: bool
    inputs: tuple[InputSpec, ...] = ()
    target: Target | None = None
    loaded: Loaded | None = None
    traced: Traced | None = None
    tensors: Mapping[str, Tensor] | None = None

    def open(self, settings: RunSettings) -> Program:
        """The network, ready to be run.

        Raises:
            ModelError: it cannot be read or run.
            UsageError: the inputs do not fit.
        """
        return self.opener()(settings)

    def opener(self) -> Callable[[RunSettings], Program]:
        """What makes the network ready to be run, read once for all of its runs.

        Raises:
            ModelError: it cannot be read.
            UsageError: the inputs do not fit.
        """
        if self.loaded is not None:
            traced = self.traced or self.loaded.trace(training=self.training)
            return partial(TorchProgram, traced, tensors=self.tensors)
        assert self.target is not None
        assert self.target.path is not None
        if self.target.kind == "onnx":
            graph = read_onnx(self.target.path, training=self.training, inputs=tuple(self.inputs))
            return partial(OnnxProgram, self.target.path, graph)
        return partial(TorchProgram, trace_pt2(self.target.path, training=self.training, inputs=self.inputs))

    def with_module(self, module: torch.nn.Module, *, same_program: bool) -> Source:
        """The same with a copy of its module in the place of the module.

        Args:
            module: the copy.
            same_program: whether it differs in the numbers of its tensors alone, and so need not be traced again.
        """
        assert self.loaded is not None
        loaded = replace(self.loaded, found=module)
        if not same_program or self.traced is None:
            return replace(self, loaded=loaded, traced=None, tensors=None)
        named = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
        return replace(self, loaded=loaded, tensors={name: tensor for each in named for name, tensor in each})

    def in_form(self, *, training: bool) -> Source:
        """The same in the form of training or of inference."""
        if training == self.training:
            return self
        return replace(self, training=training, traced=None, tensors=None)

    def built(self, seed: int) -> Source:
        """The same with a Python target imported and built: once, so that every opening has the same weights.

        Args:
            seed: of the generators that it may draw its weights from: a run can be repeated, by other processes too.

        Raises:
            ModelError: it cannot be built.
        """
        if self.target is None or self.target.kind != "python":
            return self
        with _seeded(seed):
            return replace(self, loaded=load_python(self.target, self.inputs))

    def with_batch(self, graph: Graph, batch: int) -> Source:
        """The same on fewer examples.

        Args:
            graph: as it was read with the batch so far.
            batch: the new size of the first axis of all inputs that share the old one.

        Raises:
            ModelError: the network has no axis that could be made smaller.
        """
        old = batch_size(graph)
        if old is None or batch >= old:
            raise ModelError(self.name, "its inputs share no batch axis that could be made smaller")
        if self.loaded is not None and not self.loaded.inputs and not isinstance(self.loaded.found, torch.nn.Module):
            raise ModelError(self.name, "the batch is fixed in the exported program")
        if self.loaded is not None:
            args, kwargs = _narrowed(self.loaded.args, old, batch), _narrowed(dict(self.loaded.kwargs), old, batch)
            loaded = replace(self.loaded, args=args, kwargs=kwargs)
            return replace(self, loaded=loaded, traced=None, tensors=None)
        return replace(self, inputs=tuple(_specs(graph, old, batch)))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, numpy and Python start from a seed, and are as they were afterwards."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def batch_size(graph: Graph) -> int | None:
    """The size of the first axis of the inputs, None if they share none."""
    shapes = [graph.values[name].concrete_shape for name in graph.inputs]
    sizes = {shape[0] for name, shape in zip(graph.inputs, shapes, strict=True) if shape and len(shape) > 1}
    return sizes.pop() if len(sizes) == 1 else None


def _narrowed(values: Any, old: int, batch: int) -> Any:
    def narrow(value: Any) -> Any:
        return value[:batch] if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == old else value

    return pytree.tree_map(narrow, values)


def _specs(graph: Graph, old: int, batch: int) -> list[InputSpec]:
    found = []
    for name in graph.inputs:
        shape = graph.values[name].concrete_shape
        if shape is not None:
            sizes = (batch, *shape[1:]) if len(shape) > 1 and shape[0] == old else shape
            found.append(InputSpec(sizes, name))
    return found


def device_named(text: str) -> torch.device:
    """The device that `--device` names; "auto" is a GPU if there is one.

    Raises:
        UsageError: there is no such device here.
    """
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"--device {text}", "is no device", "Say auto, cpu, cuda or cuda:0.")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            have = f"{count} GPUs are here" if count else "there is no GPU that this torch can use"
            raise UsageError(f"--device {text}", have, "Use --device cpu.")
    return torch.device(text)


def loaded_module(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Loaded:
    """A module in hand as a loaded target."""
    return Loaded(name, module, args, kwargs, (), None)
