"""ONNX files for `tests.benchmarks.harm`: exported, fixed by the command line, run in ONNX Runtime, read back."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from gnelint.cli import main as gnelint_main
from tests.benchmarks.harm_tasks import Batch

FORMS = ("onnx, dynamo", "onnx, training form", "onnx, inference form")
"""How draws are exported: by default; by the TorchScript exporter with batch statistics; by it with running ones."""


@dataclass(frozen=True)
class Exported:
    """A file and the form it was exported in."""

    path: Path
    form: str


def exported(net: nn.Module, batch: Batch, path: Path, form: str) -> Exported:
    """Write a network in one of `FORMS`.

    Raises:
        Exception: whatever PyTorch's exporter raises.
    """
    net = copy.deepcopy(net).train(form == FORMS[1])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if form == FORMS[0]:
            torch.onnx.export(net, batch.inputs, str(path), dynamo=True, verbose=False)
        else:
            training = torch.onnx.TrainingMode.TRAINING if form == FORMS[1] else torch.onnx.TrainingMode.EVAL
            torch.onnx.export(
                net,
                batch.inputs,
                str(path),
                dynamo=False,
                opset_version=17,
                training=training,
                do_constant_folding=form == FORMS[2],
            )
    return Exported(path, form)


def as_in_file(net: nn.Module, form: str) -> nn.Module:
    """A module that computes what a file in one of `FORMS` does: without dropout where that was left out."""
    net = copy.deepcopy(net)
    if form != FORMS[1]:
        for part in net.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.p = 0.0
            elif isinstance(part, nn.MultiheadAttention):
                part.dropout = 0.0
    return net


def fixed_file(path: Path, out: Path) -> tuple[Path | None, str]:
    """What `gnelint fix PATH -o OUT` wrote, None where it wrote nothing, and what it said."""
    said = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["gnelint", "fix", str(path), "-o", str(out)]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        contextlib.suppress(SystemExit),
    ):
        gnelint_main()
    return (out if out.exists() else None), said.getvalue()


def run(path: Path, batch: Batch) -> tuple[Tensor, ...]:
    """The outputs of a file in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {each.name: value.numpy() for each, value in zip(session.get_inputs(), batch.inputs, strict=True)}
    return tuple(torch.from_numpy(np.asarray(each)) for each in session.run(None, given))


def carried(net: nn.Module, before: Path, after: Path) -> nn.Module | None:
    """A copy of a module with what changed between two ONNX files.

    A changed tensor is known by its name, or by its old numbers, as they are or transposed.

    Returns:
        None where one is not to be found, or other nodes stand in the file.
    """
    was, now = onnx.load(before), onnx.load(after)
    if [each.op_type for each in was.graph.node] != [each.op_type for each in now.graph.node]:
        return None
    old, new = _tensors(was), _tensors(now)
    moved = {name for name in old if name in new and not np.array_equal(old[name], new[name])}
    copied = copy.deepcopy(net)
    with torch.no_grad():
        for name in moved:
            place = _place(copied, net, name, old[name])
            if place is None:
                return None
            parameter, transposed = place
            array = np.ascontiguousarray(new[name].T if transposed else new[name])
            parameter.copy_(torch.from_numpy(array.copy()))
    return copied if moved else None


def _tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _place(copied: nn.Module, net: nn.Module, name: str, array: np.ndarray) -> tuple[Tensor, bool] | None:
    """The tensor of the copy that holds these numbers, and whether they are transposed."""
    state, targets = net.state_dict(), copied.state_dict()
    names = [name, *state] if name in state else list(state)
    for each in names:
        value = state[each].numpy()
        if value.shape == array.shape and np.array_equal(value, array):
            return targets[each], False
        if value.ndim == 2 and value.T.shape == array.shape and np.array_equal(value.T, array):
            return targets[each], True
    return None
