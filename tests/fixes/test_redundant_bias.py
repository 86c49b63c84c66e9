"""A bias that a normalisation takes out is dropped so that the function stays, in training and in evaluation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

import gnelint
from gnelint.fixes.planning import FixOutcome, FixRequest, plan_fixes
from gnelint.lint.rulefile import load_rules
from gnelint.lint.selection import Settings
from gnelint.measure.onnx_on_torch.call import Settings as RunSettings
from gnelint.measure.onnx_on_torch.interpreter import open_interpreter
from gnelint.readers.onnx.reader import read
from gnelint.writers.base import Unmade
from gnelint.writers.onnx.writer import write_onnx
from tests.measure.onnx_on_torch.agreement import reference
from tests.readers.onnx.build import node

C = 6
RULE = load_rules().get("GNE310")
KEPT = 1e-5
"""The largest difference that counts as rounding, over the output's deviation."""

# Modules ----------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A forward function over some parts, with a rectifier behind it."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            if isinstance(part, (nn.Module, nn.Parameter)):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(width: int = 3, out: int = C, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(width, out, 3, **options)


def trained(module: nn.Module, shape: Sequence[int]) -> Tensor:
    """Biases and running statistics as training leaves them: none of them zero."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(getattr(part, "bias", None), nn.Parameter):
            nn.init.normal_(part.bias)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(*shape) + 1)
    return torch.randn(*shape)


def apart(first: nn.Module, second: nn.Module, x: Tensor, training: bool) -> float:
    """The largest difference of any output over its deviation."""
    found = []
    for module in (first, second):
        torch.manual_seed(1)
        with torch.no_grad():
            y = copy.deepcopy(module).train(training)(x)
        found.append(y if isinstance(y, tuple) else (y,))
    return max(float((a - b).abs().max() / a.std()) for a, b in zip(*found, strict=True))


def head(net: Any, h: Tensor) -> Tensor:
    return F.relu(net.n(h))


CANCELLED: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: Net(lambda s, x: head(s, s.c(x)), c=conv(), n=nn.BatchNorm2d(C)), (4, 3, 6, 6)),
    "grouped transposed": (
        lambda: Net(
            lambda s, x: head(s, s.c(x)), c=nn.ConvTranspose2d(4, C, 3, stride=2, groups=2), n=nn.BatchNorm2d(C)
        ),
        (4, 4, 5, 5),
    ),
    "scaled and shifted a channel": (
        lambda: Net(
            lambda s, x: head(s, (s.c(x) * s.g - s.g) / 1.7),
            c=conv(),
            n=nn.BatchNorm2d(C),
            g=nn.Parameter(torch.rand(C, 1, 1) + 0.5),
        ),
        (4, 3, 6, 6),
    ),
    "tokens, features moved in front": (
        lambda: Net(lambda s, x: head(s, s.c(x).transpose(1, 2)), c=nn.Linear(5, C), n=nn.BatchNorm1d(C)),
        (4, 7, 5),
    ),
    "tokens as samples": (
        lambda: Net(lambda s, x: head(s, s.c(x).view(-1, C)), c=nn.Linear(5, C), n=nn.BatchNorm1d(C)),
        (4, 7, 5),
    ),
    "padded with what is there": (
        lambda: Net(lambda s, x: head(s, F.pad(s.c(x), (1, 1, 1, 1), "reflect")), c=conv(), n=nn.BatchNorm2d(C)),
        (4, 3, 6, 6),
    ),
    "one layer and one normalisation, twice": (
        lambda: Net(lambda s, x: head(s, s.c(head(s, s.c(x)))), c=conv(C, padding=1), n=nn.BatchNorm2d(C)),
        (4, C, 5, 5),
    ),
    "one layer, two normalisations": (
        lambda: Net(
            lambda s, x: head(s, s.c(F.relu(s.m(s.c(x))))),
            c=conv(C, padding=1),
            n=nn.BatchNorm2d(C),
            m=nn.BatchNorm2d(C),
        ),
        (4, C, 5, 5),
    ),
    "a bias computed of the parameter": (
        lambda: Net(lambda s, x: head(s, F.conv2d(x, s.c.weight, 2 * s.c.bias)), c=conv(), n=nn.BatchNorm2d(C)),
        (4, 3, 6, 6),
    ),
    "instances with running statistics": (
        lambda: Net(
            lambda s, x: head(s, s.c(x)), c=conv(), n=nn.InstanceNorm2d(C, affine=True, track_running_stats=True)
        ),
        (4, 3, 6, 6),
    ),
    "a channel a group": (
        lambda: Net(lambda s, x: head(s, s.c(x)), c=conv(), n=nn.GroupNorm(C, C)),
        (4, 3, 6, 6),
    ),
}


def written_out(net: Any, h: Tensor) -> Tensor:
    """A batch normalisation in plain Python that keeps a running mean nobody sees in the traced training pass."""
    axes = (0, 2, 3)
    if net.training:
        mean, var = h.mean(axes, keepdim=True), h.var(axes, unbiased=False, keepdim=True)
        with torch.no_grad():
            net.seen.lerp_(mean.flatten(), 0.1)
    else:
        mean, var = net.seen.view(1, -1, 1, 1), torch.ones(1)
    return F.relu((h - mean) / (var + 1e-5).sqrt())


COUNTS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "padded with zeros": (
        lambda: Net(lambda s, x: head(s, F.pad(s.c(x), (1, 1, 1, 1))), c=conv(), n=nn.InstanceNorm2d(C)),
        (4, 3, 6, 6),
    ),
    "scaled a position": (
        lambda: Net(lambda s, x: head(s, s.c(x) * s.m), c=conv(), n=nn.BatchNorm2d(C), m=torch.rand(1, 1, 4, 4)),
        (4, 3, 6, 6),
    ),
    "positions in the channels' place": (
        lambda: Net(
            lambda s, x: head(s, s.c(x).transpose(1, 2)), c=nn.Conv1d(4, C, 3, padding=1), n=nn.InstanceNorm1d(C)
        ),
        (4, 4, C),
    ),
    "features behind tokens": (
        lambda: Net(lambda s, x: head(s, s.c(x)), c=nn.Linear(5, C), n=nn.BatchNorm1d(C)),
        (4, C, 5),
    ),
    "channels cut into pixels": (
        lambda: Net(lambda s, x: head(s, F.pixel_shuffle(s.c(x), 2)), c=conv(3, 4 * C), n=nn.BatchNorm2d(C)),
        (4, 3, 6, 6),
    ),
    "channels and positions in one": (
        lambda: Net(lambda s, x: head(s, s.c(x).flatten(1)), c=conv(), n=nn.BatchNorm1d(C * 16)),
        (4, 3, 6, 6),
    ),
    "dropout": (
        lambda: Net(lambda s, x: head(s, F.dropout(s.c(x), 0.5, s.training)), c=nn.Linear(8, C), n=nn.BatchNorm1d(C)),
        (32, 8),
    ),
    "a second output": (
        lambda: Net(lambda s, x: (lambda h: (head(s, h), h))(s.c(x)), c=conv(), n=nn.BatchNorm2d(C)),
        (4, 3, 6, 6),
    ),
    "a second reader behind a scaling": (
        lambda: Net(lambda s, x: (lambda h: head(s, h) + h)(2 * s.c(x)), c=conv(), n=nn.BatchNorm2d(C)),
        (4, 3, 6, 6),
    ),
    "forward reads the bias": (
        lambda: Net(lambda s, x: head(s, s.c(x)) + s.c.bias.sum(), c=conv(), n=nn.BatchNorm2d(C)),
        (4, 3, 6, 6),
    ),
    "forward returns what it makes of the bias": (
        lambda: Net(lambda s, x: (head(s, s.c(x)), s.c.bias**2), c=conv(), n=nn.BatchNorm2d(C)),
        (4, 3, 6, 6),
    ),
    "the bias of another layer too": (
        lambda: Net(
            lambda s, x: F.conv2d(head(s, s.c(x)), s.c.weight, s.c.bias), c=conv(C, padding=1), n=nn.BatchNorm2d(C)
        ),
        (4, C, 6, 6),
    ),
    "two channels a group": (
        lambda: Net(lambda s, x: head(s, s.c(x)), c=conv(), n=nn.GroupNorm(C // 2, C)),
        (4, 3, 6, 6),
    ),
    "no mean is subtracted": (
        lambda: Net(lambda s, x: head(s, s.c(x)), c=nn.Linear(8, C), n=nn.RMSNorm(C)),
        (32, 8),
    ),
    "one normalisation behind two layers": (
        lambda: Net(
            lambda s, x: head(s, s.d(head(s, s.c(x)))), c=conv(C), d=conv(C), n=nn.BatchNorm2d(C, affine=False)
        ),
        (4, C, 8, 8),
    ),
    "statistics written out": (
        lambda: Net(lambda s, x: written_out(s, s.c(x)), c=conv(), seen=torch.zeros(C)),
        (4, 3, 6, 6),
    ),
}


def planned(module: nn.Module, x: Tensor) -> Any:
    return gnelint.plan_fixes(module, x, select=["GNE310"])


@pytest.mark.parametrize("name", CANCELLED)
def test_a_module_computes_the_same_in_both_modes_and_still_loads_old_checkpoints(name: str) -> None:
    make, shape = CANCELLED[name]
    module = make()
    x = trained(module, shape)
    fixed, unmade = planned(module, x).apply()
    assert unmade == ()
    assert not fixed.c.bias.any()
    for training in (True, False):
        assert apart(module, fixed, x, training) < KEPT
    assert planned(fixed, x).edits == ()
    assert list(fixed.state_dict()) == list(module.state_dict())
    fixed.load_state_dict(module.state_dict())
    assert apart(module, fixed, x, False) == 0


@pytest.mark.parametrize("name", COUNTS)
def test_a_bias_that_counts_is_left_alone(name: str) -> None:
    make, shape = COUNTS[name]
    module = make()
    x = trained(module, shape)
    plan = planned(module, x)
    assert (plan.edits, plan.plan.found) == ((), ())


def test_a_frozen_bias_is_left_alone() -> None:
    module = nn.Sequential(conv(), nn.BatchNorm2d(C), nn.ReLU())
    module[0].bias.requires_grad_(False)
    assert planned(module, trained(module, (4, 3, 6, 6))).edits == ()


def test_the_code_for_a_fresh_model_zeroes_the_bias_and_leaves_the_running_mean() -> None:
    module = nn.Sequential(conv(), nn.BatchNorm2d(C), nn.ReLU())
    x = trained(module, (4, 3, 6, 6))
    code = planned(module, x).init_code()
    space: dict[str, Any] = {}
    exec(code, space)  # what a user would run
    fresh = nn.Sequential(conv(), nn.BatchNorm2d(C), nn.ReLU())
    space["init_weights"](fresh)
    assert not fresh[0].bias.any()
    assert not fresh[1].running_mean.any()


# ONNX files -------------------------------------------------------------------------------------------------------

DRAW = np.random.default_rng(0)
SHAPE = (4, 3, 6, 6)


def draw(*shape: int, std: float = 0.5) -> np.ndarray:
    return (DRAW.standard_normal(shape) * std).astype(np.float32)


def norms(*letters: str, size: int = C) -> dict[str, np.ndarray]:
    found = {}
    for letter in letters:
        found |= {f"{letter}_s": draw(size) + 1, f"{letter}_t": draw(size), f"{letter}_m": draw(size)}
        found[f"{letter}_v"] = np.abs(draw(size)) + 0.5
    return found


def norm(x: str, y: str, letter: str, mean: str | None = None, **attributes: Any) -> onnx.NodeProto:
    inputs = [x, f"{letter}_s", f"{letter}_t", mean or f"{letter}_m", f"{letter}_v"]
    return node("BatchNormalization", inputs, [y], name=letter, **attributes)


@dataclass(frozen=True)
class File:
    """A model to be built: by default inputs of images and the output "y"."""

    nodes: Sequence[onnx.NodeProto]
    weights: Mapping[str, np.ndarray]
    opset: int = 17
    ir: int = 8
    shape: tuple[int, ...] = SHAPE
    outputs: tuple[str, ...] = ("y",)
    listed: tuple[str, ...] = ()

    def save(self, folder: Path) -> Path:
        tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in self.weights.items()]
        listed = [tensor for tensor in tensors if tensor.name in self.listed or self.ir < 4]
        inputs = [helper.make_tensor_value_info("x", 1, self.shape)]
        inputs += [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in listed]
        ranks = {name: array.ndim for name, array in self.weights.items()}
        outputs = [
            helper.make_tensor_value_info(
                name, 1, [f"{name}{axis}" for axis in range(ranks.get(name, len(self.shape)))]
            )
            for name in self.outputs
        ]
        graph = helper.make_graph(list(self.nodes), "g", inputs, outputs, tensors)
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir, producer_name="test"
        )
        path = folder / "model.onnx"
        onnx.save(proto, str(path))
        return path


def conv_node(x: str, y: str, *weights: str, op: str = "Conv", **attributes: Any) -> onnx.NodeProto:
    return node(op, [x, *weights], [y], name=y, **attributes)


def fixed_file(source: Path) -> tuple[Path, FixOutcome, Sequence[Unmade]]:
    """The file after the fix, beside it."""
    assert RULE is not None
    graph, output = read(source), source.with_name("fixed.onnx")
    plan = plan_fixes(graph, FixRequest([RULE], Settings(select=("GNE310",))))
    return output, plan, write_onnx(source, plan.edits, output, graph=graph)


def differences(source: Path, fixed: Path, shape: Sequence[int]) -> dict[str, float]:
    """The largest difference over the outputs' deviation: in ONNX Runtime as the file says, in training on torch."""
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    pairs = {"runtime": [reference(path, feeds) for path in (source, fixed)]}
    for mode in ("running", "batch"):
        found = []
        for path in (source, fixed):
            interpreter = open_interpreter(path, RunSettings(torch.device("cpu"), normalization=mode))
            with torch.no_grad():
                found.append(interpreter.run({name: torch.from_numpy(array) for name, array in feeds.items()}))
        pairs[mode] = found
    return {mode: _apart(*pair) for mode, pair in pairs.items()}


def _apart(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    worst = 0.0
    for name, array in before.items():
        one, other = (np.asarray(each, np.float64) for each in (array, after[name]))
        worst = max(worst, float(np.abs(one - other).max() / max(one.std(), 1e-30)))
    return worst


W, B = draw(C, 3, 3, 3, std=0.2), draw(C)
ONE = [conv_node("x", "h", "w", "b"), norm("h", "n", "bn"), node("Relu", ["n"], ["y"])]
TWO = [
    *[conv_node("x", "h", "w", "b", pads=[1] * 4), norm("h", "n", "bn"), node("Relu", ["n"], ["r"])],
    *[conv_node("r", "i", "v", "b", pads=[1] * 4), norm("i", "y", "bm", "bn_m")],
]
BOTH = {"w": W, "b": B, "v": draw(C, C, 3, 3, std=0.2), **norms("bn", "bm")}

FILES: Mapping[str, Callable[[], File]] = {
    **{
        f"opset {opset}": (lambda opset=opset, ir=ir: File(ONE, {"w": W, "b": B, **norms("bn")}, opset, ir))
        for opset, ir in ((7, 3), (8, 3), (9, 4), (13, 7), (14, 7), (15, 8), (21, 10), (23, 11))
    },
    "training mode, opset 15": lambda: File(
        [
            ONE[0],
            node("BatchNormalization", ["h", "bn_s", "bn_t", "bn_m", "bn_v"], ["n", "m2", "v2"], training_mode=1),
            ONE[2],
        ],
        {"w": W, "b": B, **norms("bn")},
        15,
    ),
    "grouped transposed": lambda: File(
        [conv_node("x", "h", "w", "b", op="ConvTranspose", group=3, strides=[2, 2]), *ONE[1:]],
        {"w": draw(3, 2, 3, 3), "b": B, **norms("bn")},
    ),
    "product and sum": lambda: File(
        [
            node("MatMul", ["x", "w"], ["p"], name="p"),
            node("Add", ["b", "p"], ["h"]),
            *ONE[1:],
        ],
        {"w": draw(3, C), "b": B, **norms("bn")},
        shape=(8, 3),
    ),
    **{
        f"Gemm, opset {opset}": (
            lambda opset=opset, ir=ir: File(
                [node("Gemm", ["x", "w", "b"], ["h"], name="g", transB=1), *ONE[1:]],
                {"w": draw(C, 3), "b": B, **norms("bn")},
                opset,
                ir,
                shape=(8, 3),
            )
        )
        for opset, ir in ((8, 3), (13, 7))
    },
    "convolution and sum": lambda: File(
        [conv_node("x", "p", "w"), node("Add", ["p", "b"], ["h"]), *ONE[1:]],
        {"w": W, "b": B.reshape(1, C, 1, 1), **norms("bn")},
    ),
    "scaled a channel": lambda: File(
        [ONE[0], node("Mul", ["h", "g"], ["s"]), node("Div", ["s", "k"], ["d"]), norm("d", "n", "bn"), ONE[2]],
        {"w": W, "b": B, "g": draw(C, 1, 1) + 2, "k": np.float32(3), **norms("bn")},
    ),
    "one bias, one running mean for two": lambda: File(TWO, BOTH),
    "numbers in nodes": lambda: File(
        [
            *[node("Constant", [], [name], value=numpy_helper.from_array(array)) for name, array in BOTH.items()],
            *TWO,
        ],
        {},
    ),
    "instances": lambda: File(
        [ONE[0], node("InstanceNormalization", ["h", "bn_s", "bn_t"], ["n"], name="bn"), ONE[2]],
        {"w": W, "b": B, "bn_s": draw(C), "bn_t": draw(C)},
    ),
    "the bias is returned": lambda: File(ONE, {"w": W, "b": B, **norms("bn")}, outputs=("y", "bn_m")),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_computes_the_same_in_inference_and_in_training_form(tmp_path: Path, name: str) -> None:
    file = FILES[name]()
    source = file.save(tmp_path)
    fixed, plan, unmade = fixed_file(source)
    assert plan.edits
    assert unmade == ()
    onnx.checker.check_model(str(fixed), full_check=True)
    after = read(fixed)
    assert all("bias" not in layer.parameters for layer in after.nodes if layer.op in ("conv", "linear"))
    assert plan_fixes(after, plan.request).edits == ()
    found = differences(source, fixed, file.shape)
    if "instances" not in name and "training mode" not in name:
        assert differences_without_the_mean(source, fixed, file.shape) > 0.1, "the running mean matters here"
    assert max(found.values()) < KEPT, found


def differences_without_the_mean(source: Path, fixed: Path, shape: Sequence[int]) -> float:
    """What dropping the bias alone would have changed."""
    proto, old = onnx.load(str(fixed)), onnx.load(str(source))
    given = {norm.name: norm.input[3] for norm in old.graph.node if norm.op_type == "BatchNormalization"}
    arrays = {tensor.name: tensor for tensor in old.graph.initializer}
    arrays |= {each.output[0]: each.attribute[0].t for each in old.graph.node if each.op_type == "Constant"}
    for each in proto.graph.node:
        if each.op_type == "BatchNormalization":
            numbers = numpy_helper.to_array(arrays[given[each.name]])
            proto.graph.initializer.append(numpy_helper.from_array(numbers, f"{each.name}/old"))
            each.input[3] = f"{each.name}/old"
    proto.ir_version = max(proto.ir_version, 4)
    path = fixed.with_name("half.onnx")
    onnx.save(proto, str(path))
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    return _apart({"y": reference(source, feeds)["y"]}, {"y": reference(path, feeds)["y"]})


LEFT: Mapping[str, Callable[[], File]] = {
    "another layer uses the bias": lambda: File(
        [*ONE[:2], conv_node("n", "y", "v", "b", pads=[1] * 4)],
        {"w": W, "b": B, "v": draw(C, C, 3, 3, std=0.2), **norms("bn")},
    ),
    "padding": lambda: File(
        [ONE[0], node("Pad", ["h", "pads"], ["p"]), norm("p", "n", "bn"), ONE[2]],
        {"w": W, "b": B, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), **norms("bn")},
    ),
    "an output": lambda: File(ONE, {"w": W, "b": B, **norms("bn")}, outputs=("y", "h")),
    "quantised": lambda: File(
        [
            ONE[0],
            node("QuantizeLinear", ["h", "q", "z"], ["i"]),
            node("DequantizeLinear", ["i", "q", "z"], ["d"]),
            norm("d", "n", "bn"),
            ONE[2],
        ],
        {"w": W, "b": B, "q": np.float32(0.02), "z": np.uint8(128), **norms("bn")},
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_nothing_is_said_of_a_file_whose_bias_counts(tmp_path: Path, name: str) -> None:
    _, plan, _ = fixed_file(LEFT[name]().save(tmp_path))
    assert (plan.found, plan.edits) == ((), ())


@pytest.mark.parametrize("name", ["b", "bn_m"])
def test_what_the_caller_may_feed_is_refused(tmp_path: Path, name: str) -> None:
    source = File(ONE, {"w": W, "b": B, **norms("bn")}, listed=(name,)).save(tmp_path)
    fixed, plan, unmade = fixed_file(source)
    assert [each.edit for each in unmade] == list(plan.edits)
    assert unmade[0].reason == f'"{name}" is an input of the model: what the caller feeds is not known'
    assert not fixed.exists()


def test_running_statistics_that_are_returned_are_refused(tmp_path: Path) -> None:
    nodes = [
        ONE[0],
        node("BatchNormalization", ["h", "bn_s", "bn_t", "bn_m", "bn_v"], ["n", "m", "v"], name="bn", training_mode=1),
        ONE[2],
    ]
    source = File(nodes, {"w": W, "b": B, **norms("bn")}, outputs=("y", "m")).save(tmp_path)
    fixed, plan, unmade = fixed_file(source)
    assert len(unmade) == len(plan.edits)
    assert not fixed.exists()
