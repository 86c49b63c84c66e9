"""What a kernel is given besides its inputs: the operation's attributes, and the settings of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import onnx
import torch

from gnelint.measure.onnx_on_torch.table import CannotRunError, Datum
from gnelint.measure.onnx_on_torch.tensors import proto_to_torch, torch_dtype
from gnelint.measure.program import RunSettings
from gnelint.onnxfile.nodes import plain, schema_of
from gnelint.records import dataclass

NormalizationMode = Literal["file", "batch", "running"]
"""Which statistics BatchNormalization uses: as the file says, the batch's, or the running ones."""


@dataclass(frozen=True)
class Settings(RunSettings):
    """How an ONNX model is run.

    Attributes:
        normalization: which statistics BatchNormalization uses.
    """

    normalization: NormalizationMode = "file"

    def dtype(self, code: int) -> torch.dtype:
        """The torch type that stands for an ONNX element type in this run."""
        found = torch_dtype(code)
        return self.float32 if found is torch.float32 else found


@dataclass(frozen=True)
class Call:
    """One ONNX operation about to run.

    Attributes:
        op_type, domain, version: of the operator; "ai.onnx" is the domain "".
        name: of the node, for messages.
        attributes: by name, references to a function's attributes resolved.
        outputs: names of the outputs, "" for one left out.
        settings: of the run.
        run_body: runs the graph in an attribute of this name (a branch, a loop's body) on inputs and returns its
            outputs; names of the enclosing graph are seen from inside.
    """

    op_type: str
    domain: str
    version: int
    name: str
    attributes: Mapping[str, onnx.AttributeProto]
    outputs: tuple[str, ...]
    settings: Settings
    run_body: Callable[[str, Sequence[Datum]], tuple[Datum, ...]]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute as int, float, str, tuple of these, or onnx proto; else the schema's default, else `default`."""
        attribute = self.attributes.get(name)
        if attribute is None:
            attribute = _schema_defaults(self.op_type, self.version, self.domain).get(name)
        return default if attribute is None else plain(attribute)

    def need(self, name: str) -> Any:
        """An attribute that the operator makes no sense without.

        Raises:
            CannotRunError: it is not there.
        """
        found = self.get(name)
        if found is None:
            raise CannotRunError(f'no attribute "{name}"')
        return found

    def used(self, index: int) -> bool:
        """Whether the node names this output."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def dtype(self, code: int) -> torch.dtype:
        """The torch type that stands for an ONNX element type in this run."""
        return self.settings.dtype(code)

    @property
    def device(self) -> torch.device:
        """Where new tensors belong."""
        return self.settings.device

    def tensor(self, name: str) -> Datum | None:
        """An attribute that is a tensor, as this run wants it; None if it is not there."""
        found = self.get(name)
        return None if found is None else self.settings.placed(proto_to_torch(found))


@lru_cache(maxsize=1024)
def _schema_defaults(op_type: str, version: int, domain: str) -> Mapping[str, onnx.AttributeProto]:
    """The defaults of an operator's attributes; {} for an operator that is not onnx's own."""
    schema = schema_of(op_type, version, domain)
    if schema is None:
        return {}
    found = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    return {name: value for name, value in found.items() if value.type != onnx.AttributeProto.UNDEFINED}
