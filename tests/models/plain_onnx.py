"""A plain deep network as an ONNX file, written without torch: the model that README's first command checks.

python tests/models/plain_onnx.py plain50.onnx              50 convolutions at half of He's standard deviation
python tests/models/plain_onnx.py plain50.onnx --gain 1     the same as it should be
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def plain_onnx(
    depth: int = 50, channels: int = 64, size: int = 16, gain: float = 0.5, seed: int = 0
) -> onnx.ModelProto:
    """`depth` times a 3x3 convolution and ReLU, weights N(0, gain^2 2 / fan_in)."""
    generator = np.random.default_rng(seed)
    nodes, weights = [], []
    name, inputs = "image", 3
    for layer in range(1, depth + 1):
        std = gain * math.sqrt(2.0 / (inputs * 9))
        weight = (std * generator.standard_normal((channels, inputs, 3, 3))).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"conv{layer}.weight"))
        nodes.append(
            helper.make_node("Conv", [name, f"conv{layer}.weight"], [f"z{layer}"], f"conv{layer}", pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"z{layer}"], [f"x{layer}"], f"relu{layer}"))
        name, inputs = f"x{layer}", channels
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])
    features = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, size, size])
    graph = helper.make_graph(nodes, "plain", [image], [features], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--gain", type=float, default=0.5)
    arguments = parser.parse_args()
    onnx.save(plain_onnx(depth=arguments.depth, gain=arguments.gain), arguments.path)
    print(f"wrote {arguments.path}")


if __name__ == "__main__":
    main()
