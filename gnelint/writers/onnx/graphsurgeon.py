"""A model as an onnx-graphsurgeon graph, for users who script with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnelint.errors import ModelError, UnreadableError
from gnelint.onnxfile.file import open_model

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs


def to_graphsurgeon(model: str | Path | onnx.ModelProto) -> gs.Graph:
    """The model as an `onnx_graphsurgeon.Graph`, to be edited by hand and written with `gs.export_onnx`.

    That round trip keeps nodes, weights, types, symbolic dimensions and local functions. It drops the metadata of the
    model, the graph, the nodes and the functions (so what gnelint noted of its edits, which rules a node ignores, and
    the source lines that exporters leave), the doc strings of the model, the nodes and the inputs, the model's domain
    and version, quantization annotations, dimension denotations, and fields that the installed onnx does not know.
    `gnelint fix` edits the file itself and keeps all of these.

    Args:
        model: a file, whose weights are loaded, or the message of one.

    Raises:
        ModelError: the file cannot be read.
    """
    import onnx
    import onnx_graphsurgeon

    if isinstance(model, onnx.ModelProto):
        return onnx_graphsurgeon.import_onnx(model)
    try:
        open_model(Path(model))
        loaded: Any = onnx.load(str(model))
    except UnreadableError as error:
        raise ModelError(str(model), error.problem, error.advice) from error
    except Exception as error:  # data files that are missing or too short; onnx raises many kinds
        raise ModelError(str(model), f"cannot be read ({error})", "gnelint check says what is wrong.") from error
    return onnx_graphsurgeon.import_onnx(loaded)
