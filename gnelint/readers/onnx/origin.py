"""Names, module scopes and source lines of nodes, from what exporters leave in an ONNX file."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import onnx

from gnelint.ir.graph import Location

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_FRAMEWORK = re.compile(
    r"[/\\](?:site|dist)-packages[/\\](?:torch|onnx|onnxscript)[/\\]|[/\\]torch[/\\]nn[/\\]modules[/\\]|^<"
)
IGNORE = "gnelint.ignore"
"""The metadata key under which a model file names rules that are not to speak of a node, or of the model."""
_LONGEST_ID = 40

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization",
                       "InstanceNormalization", "GroupNormalization", "RMSNormalization", "PRelu", "LSTM", "GRU", "RNN",
                       "Gather"})  # fmt: skip


def metadata(node: onnx.NodeProto | onnx.ModelProto) -> dict[str, str]:
    """The metadata of a node or model by key."""
    return {entry.key: entry.value for entry in node.metadata_props}


def ignored_rules(found: Mapping[str, str]) -> tuple[str, ...]:
    """The rules that a node's or model's metadata ask gnelint to ignore: ids or prefixes, separated by commas."""
    parts = found.get(IGNORE, "").split(",")
    return tuple(part.strip()[:_LONGEST_ID].upper() for part in parts if part.strip())


def location(found: Mapping[str, str]) -> Location | None:
    """The innermost frame of the recorded stack trace that is the user's."""
    trace = found.get("pkg.torch.onnx.stack_trace") or ""
    for match in reversed(list(_FRAME.finditer(trace))):
        if not _FRAMEWORK.search(match["file"]):
            return Location(match["file"], int(match["line"]))
    return None


def module_path(name: str, found: Mapping[str, str]) -> str:
    """Qualified name of the module that the node was traced in, "" if the file does not tell.

    The dynamo exporter records the chain of modules; the TorchScript exporter writes it into the node's name:
    "/layer1/layer1.0/conv1/Conv" is in layer1.0.conv1.
    """
    scopes = found.get("pkg.torch.onnx.name_scopes")
    if scopes:
        try:
            chain = ast.literal_eval(scopes) if len(scopes) < 10_000 else []
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            chain = []
        if isinstance(chain, list) and len(chain) > 1 and isinstance(chain[-2], str):
            return chain[-2]
    if not name.startswith("/"):
        return ""
    path: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if path and part.startswith(path[-1] + "."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)


def scopes(nodes: Iterable[onnx.NodeProto]) -> dict[int, str]:
    """The scope of each node, by its index.

    The one operation of a module (or the only one with weights, in a module without submodules) stands for the module
    itself: its scope is the module that holds it. Every other operation's scope is the module it was traced in.
    """
    paths: dict[int, str] = {}
    count: Counter[str] = Counter()
    weighted: Counter[str] = Counter()
    for index, node in enumerate(nodes):
        path = module_path(node.name, metadata(node))
        if not path:
            continue
        paths[index] = path
        count[path] += 1
        weighted[path] += node.op_type in _WEIGHTED
    inner = {path[:end] for path in count for end in _dots(path)}
    own = {path for path in count if count[path] == 1 or (path not in inner and weighted[path] == 1)}
    return {index: path.rpartition(".")[0] if path in own else path for index, path in paths.items()}


def _dots(path: str) -> list[int]:
    return [index for index, letter in enumerate(path) if letter == "."]


def folded_normalization(node: onnx.NodeProto) -> bool:
    """Whether the exporter folded a BatchNorm into this node."""
    if not node.metadata_props:
        return False
    return "FuseBatchNormInto" in metadata(node).get("pkg.onnxscript.rewriter.rule_name", "")
