"""What runs the parts of a network that no formula describes, made when the first of them is met."""

from __future__ import annotations

import importlib.util
from functools import partial

from gnelint.analysis.sampling import MakeSampler, NotSampledError, Sampler
from gnelint.budget import allow_torch
from gnelint.readers.reading import Read


def sampler_of(read: Read) -> MakeSampler:
    """The sampler of a network that has been read; nothing is loaded before it is asked for."""
    return partial(_made, read)


def _made(read: Read) -> Sampler:
    if importlib.util.find_spec("torch") is None:
        raise NotSampledError('PyTorch is not installed (pip install "gnelint[torch]")')
    allow_torch()
    from gnelint.measure.regions.sampler import TorchSampler  # slow to import

    if read.traced is not None:
        from gnelint.measure.regions.torch_network import TorchNetwork

        return TorchSampler(TorchNetwork(read.traced))
    from gnelint.measure.regions.onnx_network import OnnxNetwork

    assert read.target is not None
    assert read.target.path is not None
    return TorchSampler(OnnxNetwork(read.target.path, read.graph))
