"""The data files beside a model: left where they are, copied to another directory, and a new one for what changed."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnx

from gnelint.onnxfile.bytes import Raw, stretch
from gnelint.onnxfile.file import ModelFile
from gnelint.onnxfile.nodes import bodies
from gnelint.onnxfile.weights import data_path

ALIGNMENT = 4096
"""Tensors in a data file start at multiples of this, so that they can be mapped."""

INLINE = 1 << 16
"""Bytes of the largest changed tensor that goes into the model file where the others have a data file."""


@dataclass
class DataFiles:
    """What is to be written beside the model.

    Attributes:
        copies: the user's data files that the output needs and its directory lacks, by their new place.
        name: of the new data file.
        raws: what it holds, in order, with the offsets.
    """

    output: Path
    copies: dict[Path, Path] = field(default_factory=dict)
    name: str = ""
    raws: list[tuple[int, Raw]] = field(default_factory=list)
    _end: int = 0

    def bring(self, file: ModelFile) -> bool:
        """See to it that the output finds its data; whether a reference had to be changed.

        Raises:
            UnreadableError: a file is missing or outside of the model's directory.
            OSError: a file cannot be read.
        """
        here, there = file.path.parent, self.output.parent
        beside = here.resolve() == there.resolve()
        if beside and not file.path.is_symlink():
            return False
        names: dict[str, str] = {}
        changed = False
        for tensor in external_tensors(file.proto):
            for entry in tensor.external_data:
                if entry.key == "location":
                    if entry.value not in names:
                        source = data_path(file.path, entry.value, tensor.name)
                        kept = beside and source.is_relative_to(there.resolve())
                        names[entry.value] = entry.value if kept else self._place(source, entry.value)
                    changed |= names[entry.value] != entry.value
                    entry.value = names[entry.value]
        return changed

    def _place(self, source: Path, location: str) -> str:
        """A name in the output's directory under which the file is, or is to be copied."""
        wanted = Path(location).name
        name, count = wanted, 0
        while True:
            path = self.output.parent / name
            free = not path.exists() and path not in self.copies and path != self.output
            if free:
                self.copies[path] = source
                return name
            here = (
                path.resolve().parent == self.output.parent.resolve()
            )  # a link out of it is refused beside the output
            if here and path not in self.copies and path.is_file() and filecmp.cmp(source, path, shallow=False):
                return name
            count += 1
            name = f"{Path(wanted).stem}_{count}{Path(wanted).suffix}"

    def put(self, tensor: onnx.TensorProto, raw: Raw) -> None:
        """Let a tensor's data go into the new data file."""
        if not self.name:
            self.name = self._new_name()
        offset = -(-self._end // ALIGNMENT) * ALIGNMENT
        self.raws.append((offset, raw))
        self._end = offset + raw.size
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", self.name), ("offset", str(offset)), ("length", str(raw.size))):
            tensor.external_data.add(key=key, value=value)

    def _new_name(self) -> str:
        name, count = f"{self.output.name}.data", 0
        while (self.output.parent / name).exists() or self.output.parent / name in self.copies:
            count += 1
            name = f"{self.output.name}.{count}.data"
        return name

    def write_new(self, file: BinaryIO) -> None:
        """Write the new data file.

        Raises:
            OSError: the disk refuses.
        """
        position = 0
        for offset, raw in self.raws:
            file.write(bytes(offset - position))
            for chunk in raw.chunks():
                file.write(chunk)
            position = offset + raw.size


def write_copy(source: Path, file: BinaryIO) -> None:
    """Copy a data file.

    Raises:
        OSError: the disk refuses.
    """
    for chunk in stretch(source, 0, source.stat().st_size):
        file.write(chunk)


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model whose data are in another file."""
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            continue
        node = nodes.pop()
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            yield from attribute.tensors
        graphs.extend(bodies(node))
