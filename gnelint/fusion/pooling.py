"""Padding that a maximum never takes, which pooling does by itself."""

from __future__ import annotations

from gnelint.ir.graph import Node
from gnelint.ir.rewriter import Rewriter

_NEVER_TAKEN = -1e30
"""Padding with this or less is what max pooling pads with."""


def fuse_padded_pools(rewriter: Rewriter) -> None:
    """Replace max_pool(pad(x, -inf)), "same" pooling as TensorFlow has it, by max pooling that pads more."""
    for node in rewriter:
        if node.op == "max_pool":
            _pool(rewriter, node)


def _pool(rewriter: Rewriter, node: Node) -> None:
    pad = rewriter.source(node.inputs[0], "pad")
    if pad is None or pad.attribute("mode") != "constant" or pad.attribute("value") > _NEVER_TAKEN:
        return
    pads = tuple(pad.attribute("pads"))
    rank = len(pads) // 2
    if any(pads[:2]) or any(pads[rank : rank + 2]) or min(pads) < 0:
        return
    added = (*pads[2:rank], *pads[rank + 2 :])
    whole = tuple(own + more for own, more in zip(node.attribute("pads"), added, strict=True))
    rewriter.replace(node, "max_pool", pad.inputs, "max_pool", {**node.attributes, "pads": whole})
