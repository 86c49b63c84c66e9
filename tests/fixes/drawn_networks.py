"""Networks drawn at random, as ONNX files and as modules: layers, what lies between, normalisations, sharing, taps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

CHANNELS = 4
SIDE = 6
BATCH = 16
OPSETS = ((7, 3), (8, 3), (9, 4), (11, 6), (13, 7), (14, 7), (15, 8), (18, 8), (21, 10), (23, 11))
"""Operator sets and the versions of the file format that were current with them."""
LAYERS = ("Conv", "grouped Conv", "Conv and Add", "ConvTranspose", "grouped ConvTranspose")
BETWEEN = (
    "",
    "",
    "",
    "",
    "Identity",
    "gain",
    "shift",
    "mask",
    "Dropout",
    "Pad",
    "reflect",
    "swap",
    "swap twice",
    "flat",
)
NORMS = ("batch", "batch", "batch", "instance", "none")
ACTIVATIONS = ("Relu", "Relu", "LeakyRelu", "PRelu", "Tanh", "Clip")


class DrawnFile:
    """A chain of layers on images of `CHANNELS` channels, or on vectors; built with every name at hand."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset, self.ir = OPSETS[self.rng.integers(len(OPSETS))]
        self.images = bool(self.rng.random() < 0.7)
        self.training = bool(self.opset >= 14 and self.rng.random() < 0.3)
        self.shape = (BATCH, CHANNELS, SIDE, SIDE) if self.images else (BATCH, CHANNELS)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.outputs: list[str] = []
        self.plain = bool(self.rng.random() < 0.3)  # no normalisation: a chain whose scale can be moved
        value = "x"
        for index in range(int(self.rng.integers(2, 5))):
            value = self._stage(value, index)
        self._add("Identity", [value], "y")
        self.outputs.append("y")

    def save(self, folder: Path) -> Path:
        """Write the file."""
        tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in self.weights.items()]
        inputs = [helper.make_tensor_value_info("x", 1, self.shape)]
        listed = tensors if self.ir < 4 else [t for t in tensors if t.name in self._fed]
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in listed]
        outputs = [
            helper.make_tensor_value_info(name, 1, [f"{name}{axis}" for axis in range(len(self.shape))])
            for name in self.outputs
        ]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, tensors)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir)
        path = folder / "model.onnx"
        onnx.save(proto, str(path))
        return path

    @property
    def _fed(self) -> set[str]:
        """One tensor in some files is a default that the caller may override."""
        names = sorted(self.weights)
        return {names[len(names) // 2]} if len(names) % 7 == 0 else set()

    def _one_of(self, choices: tuple[str, ...]) -> str:
        return str(choices[self.rng.integers(len(choices))])

    def _tensor(self, name: str, *shape: int, mean: float = 0.0, std: float = 0.5) -> str:
        """A new tensor; now and then the last one of its kind and shape is used again."""
        kind = name.rstrip("0123456789")
        known = [old for old in self.weights if old.rstrip("0123456789") == kind and self.weights[old].shape == shape]
        if known and self.rng.random() < 0.1:
            return known[-1]
        self.weights[name] = (mean + std * self.rng.standard_normal(shape)).astype(np.float32)
        return name

    def _add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _stage(self, x: str, index: int) -> str:
        value = self._layer(x, index)
        value = self._between(value, index, self._one_of(BETWEEN))
        kind = "none" if self.plain else self._one_of(NORMS)
        norm = self._norm(value, index, kind)
        act = self._activation(norm, index)
        if self.rng.random() < 0.08:
            self.outputs.append([value, norm, act][self.rng.integers(3)])
        if self.rng.random() < 0.08 and x != "x":
            act = self._add("Add", [act, x if self.rng.random() < 0.5 else value], f"tap{index}")
        return act

    def _layer(self, x: str, index: int) -> str:
        size = 10.0 ** self.rng.uniform(-1, 1) if self.plain else 1.0
        biased = self.rng.random() < 0.85
        if not self.images:
            return self._product(x, index, size, biased)
        kind = self._one_of(LAYERS)
        groups = 2 if "grouped" in kind else 1
        op = "ConvTranspose" if "Transpose" in kind else "Conv"
        weight = self._tensor(f"w{index}", CHANNELS, CHANNELS // groups, 3, 3, std=0.25 * size)
        inputs = [x, weight]
        if biased and "Add" not in kind:
            inputs.append(self._tensor(f"b{index}", CHANNELS))
        value = self._add(op, inputs, f"h{index}", group=groups, pads=[1, 1, 1, 1])
        if biased and "Add" in kind:
            value = self._add("Add", [value, self._tensor(f"a{index}", 1, CHANNELS, 1, 1)], f"ha{index}")
        return value

    def _product(self, x: str, index: int, size: float, biased: bool) -> str:
        weight = self._tensor(f"w{index}", CHANNELS, CHANNELS, std=0.5 * size)
        bias = self._tensor(f"b{index}", CHANNELS)
        if biased and self.rng.random() < 0.5:
            return self._add("Gemm", [x, weight, bias], f"h{index}", transB=int(self.rng.integers(2)))
        value = self._add("MatMul", [x, weight], f"h{index}")
        return self._add("Add", [value, bias], f"ha{index}") if biased else value

    def _between(self, x: str, index: int, kind: str) -> str:
        one = (1, CHANNELS, *(1 for _ in self.shape[2:]))
        name = f"{kind.replace(' ', '_')}{index}"
        if kind == "Identity":
            return self._add("Identity", [x], name)
        if kind == "gain":
            op = "Mul" if self.rng.random() < 0.5 else "Div"
            return self._add(op, [x, self._tensor(f"g{index}", *one, mean=1.5, std=0.2)], name)
        if kind == "shift":
            return self._add("Add", [x, self._tensor(f"s{index}", *one)], name)
        if kind == "mask" and self.images:
            return self._add("Mul", [x, self._tensor(f"k{index}", 1, 1, SIDE, SIDE, mean=1.0)], name)
        if kind == "Dropout":
            return self._add("Dropout", [x], name)
        if kind in ("Pad", "reflect") and self.images:
            return self._cropped(self._padded(x, index, "constant" if kind == "Pad" else "reflect"), index)
        if kind.startswith("swap") and self.images:
            order = [0, 2, 1, 3]
            value = self._add("Transpose", [x], name, perm=order)
            return self._restored(value, index, order, twice=kind.endswith("twice"))
        return x

    def _padded(self, x: str, index: int, mode: str) -> str:
        pads = [0, 0, 1, 1, 0, 0, 1, 1]
        if self.opset < 11:
            return self._add("Pad", [x], f"pad{index}", pads=pads, mode=mode)
        self.weights[f"pads{index}"] = np.array(pads)
        return self._add("Pad", [x, f"pads{index}"], f"pad{index}", mode=mode)

    def _cropped(self, x: str, index: int) -> str:
        """Back to the size of the others; corners are cut on one side so that some of the padding stays."""
        if self.opset < 10:
            return self._add("Slice", [x], f"crop{index}", axes=[2, 3], starts=[0, 0], ends=[SIDE, SIDE])
        self.weights |= {f"from{index}": np.array([0, 0]), f"to{index}": np.array([SIDE, SIDE])}
        self.weights[f"axes{index}"] = np.array([2, 3])
        return self._add("Slice", [x, f"from{index}", f"to{index}", f"axes{index}"], f"crop{index}")

    def _restored(self, x: str, index: int, order: list[int], twice: bool) -> str:
        """Channels and rows swapped back at once, or behind a crop of the rows that now stand for channels."""
        if not twice:
            self.weights |= {f"wide{index}": np.zeros((1, SIDE, 1, SIDE), np.float32)}
            x = self._add("Add", [x, f"wide{index}"], f"wided{index}")
        return self._add("Transpose", [x], f"back{index}", perm=order)

    def _norm(self, x: str, index: int, kind: str) -> str:
        if kind == "none" or (kind == "instance" and not self.images):
            return x
        scale = self._tensor(f"ns{index}", CHANNELS, mean=1.0, std=0.2)
        shift = self._tensor(f"nt{index}", CHANNELS)
        if kind == "instance":
            return self._add("InstanceNormalization", [x, scale, shift], f"n{index}")
        mean = self._tensor(f"nm{index}", CHANNELS)
        self.weights[f"nv{index}"] = (0.5 + self.rng.random(CHANNELS)).astype(np.float32)
        value = self._add("BatchNormalization", [x, scale, shift, mean, f"nv{index}"], f"n{index}")
        if self.training:
            self.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
            self.nodes[-1].output.extend([f"nm{index}/new", f"nv{index}/new"])
        return value

    def _activation(self, x: str, index: int) -> str:
        kind, name = self._one_of(ACTIVATIONS), f"r{index}"
        if kind == "PRelu":
            return self._add(kind, [x, self._tensor(f"p{index}", CHANNELS, *(1 for _ in self.shape[2:]))], name)
        if kind == "Clip":
            if self.opset < 11:
                return self._add(kind, [x], name, min=0.0, max=6.0)
            self.weights |= {"low": np.float32(0), "high": np.float32(6)}
            return self._add(kind, [x, "low", "high"], name)
        return self._add(kind, [x], name)


class DrawnModule(nn.Module):
    """The same kinds as a module: convolutions with what lies between them and their normalisations."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.register_buffer("mask", torch.rand(1, 1, SIDE, SIDE))
        self.gain = nn.Parameter(torch.rand(CHANNELS, 1, 1) + 0.5)
        depth = int(rng.integers(1, 4))
        self.layers = nn.ModuleList(_layer(rng) for _ in range(depth))
        self.norms = nn.ModuleList(_norm(rng) for _ in range(depth))
        if depth > 1 and rng.random() < 0.2:
            self.layers[1] = self.layers[0]
        if depth > 1 and rng.random() < 0.2:
            self.norms[1] = self.norms[0]
        self.ways = [_WAYS[rng.integers(len(_WAYS))] for _ in range(depth)]
        self.tap = rng.random() < 0.2
        self.reads = rng.random() < 0.15
        for part in self.modules():
            if isinstance(getattr(part, "bias", None), nn.Parameter):
                nn.init.normal_(part.bias)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = x
        for layer, norm, way in zip(self.layers, self.norms, self.ways, strict=True):
            h = layer(x)
            x = F.relu(norm(way(self, h)))
        if self.reads:
            x = x + self.layers[0].bias.mean()  # type: ignore[union-attr]
        return (x, h) if self.tap else x


def _layer(rng: np.random.Generator) -> nn.Module:
    groups = 2 if rng.random() < 0.3 else 1
    kind = nn.ConvTranspose2d if rng.random() < 0.3 else nn.Conv2d
    return kind(CHANNELS, CHANNELS, 3, padding=1, groups=groups)


def _norm(rng: np.random.Generator) -> nn.Module:
    makers: list[Callable[[], nn.Module]] = [
        lambda: nn.BatchNorm2d(CHANNELS),
        lambda: nn.BatchNorm2d(CHANNELS, affine=False),
        lambda: nn.InstanceNorm2d(CHANNELS, track_running_stats=True),
        lambda: nn.InstanceNorm2d(CHANNELS),
        lambda: nn.GroupNorm(CHANNELS, CHANNELS),
        lambda: nn.GroupNorm(2, CHANNELS),
    ]
    return makers[rng.integers(len(makers))]()


_WAYS: list[Callable[[DrawnModule, Tensor], Tensor]] = [
    lambda net, h: h,
    lambda net, h: h,
    lambda net, h: h * net.gain * 0.7,
    lambda net, h: h / 1.3 + net.gain,
    lambda net, h: h * net.mask,
    lambda net, h: F.dropout(h, 0.3, net.training),
    lambda net, h: F.pad(h, (1, 1, 1, 1))[..., :SIDE, :SIDE],
    lambda net, h: F.pad(h, (1, 1, 1, 1), "reflect")[..., :SIDE, :SIDE],
    lambda net, h: h.roll(1, 1),
    lambda net, h: h.transpose(1, 2).contiguous().transpose(1, 2),
    lambda net, h: h.flip(2),
]
