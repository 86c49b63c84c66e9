"""Slips of a module's code that its graph does not show: what is read as a number, always dropped, hidden upside down.

Each is seen in the traced program, with the line that it is from.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from gnelint.ir.graph import Slips
from gnelint.readers.torch.names import module_stack, user_location
from gnelint.readers.torch.operations import DROPOUT, RANDOM, UNWRITTEN, WHOLE_VIEWS, operation_name

_NUMBERS = frozenset({"item", "_local_scalar_dense"})
_HIDES = -1e3
"""What hides an entry of a softmax is below this."""
_NOT = frozenset({"logical_not", "bitwise_not"})
_JOINS = frozenset({"logical_and", "logical_or", "bitwise_and", "bitwise_or", "__and__", "__or__"})
_TRAINING = "training"
_STEPS = 64
_ENTRIES = 1 << 20
"""Operations, and numbers of a tensor, up to which an output of stored tensors is worked out."""


def slips(program: ExportedProgram) -> Slips:
    """What is found in a program as it was traced, in its order."""
    return Slips(
        numbers=tuple(dict.fromkeys(_numbers(program))),
        dropouts=tuple(dict.fromkeys(_dropouts(program.graph))),
        axes=tuple(dict.fromkeys(_axes(program.graph))),
        masks=tuple(dict.fromkeys(_masks(program.graph))),
        broken=tuple(dict.fromkeys(_broken(program))),
        deaf=tuple(dict.fromkeys(_deaf(program.graph))),
    )


def unheard_backwards(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The parts of a module without parameters whose class defines backward with something to take, as a function does.

    One with parameters is a network that drives its own training, where backward is called by hand; so is one whose
    backward calls another.
    """
    parts = ((path, part) for path, part in module.named_modules() if path and next(part.parameters(), None) is None)
    return {path: part for path, part in parts if _takes_gradient(getattr(type(part), "backward", None))}


def _takes_gradient(method: object) -> bool:
    code = getattr(method, "__code__", None)
    return code is not None and code.co_argcount > 1 and "backward" not in code.co_names


def _place(node: fx.Node) -> str:
    found = user_location(node.meta.get("stack_trace"))
    return "" if found is None or found.line is None else f"{Path(found.file).name}:{found.line}"


def _numbers(program: ExportedProgram) -> Iterator[tuple[str, str]]:
    """Stored tensors whose number is taken out, each with the line: no gradient comes back through a number."""
    names: Mapping[str, str] = program.graph_signature.inputs_to_parameters
    for node in program.graph.nodes:
        source = _unviewed(node.args[0]) if operation_name(node.target) in _NUMBERS and node.args else None
        if isinstance(source, fx.Node) and source.name in names:
            yield names[source.name], _place(node)


def _deaf(graph: fx.Graph) -> Iterator[str]:
    """Lines that call a function whose own backward leaves out what comes back to it."""
    yield from (_place(node) for node in graph.nodes if operation_name(node.target) == "deaf_backward")


def _dropouts(graph: fx.Graph) -> Iterator[str]:
    """Lines that call a dropout as a function and do not tell it whether this is training."""
    for node in graph.nodes:
        if operation_name(node.target) not in DROPOUT or len(node.args) < 3 or node.args[2] is not True:
            continue
        stack, found = module_stack(node), user_location(node.meta.get("stack_trace"))
        of_module = bool(stack) and "dropout" in stack[-1].path.rpartition(".")[2].lower()
        if found is None or found.line is None or of_module or not node.args[1]:
            continue
        if found.line in _untold(found.file):
            yield _place(node)


@lru_cache(maxsize=256)
def _untold(file: str) -> frozenset[int]:
    """Lines of calls of a dropout without `training`, in functions that do not speak of it at all."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    found: set[int] = set()
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) or _speaks_of_training(function):
            continue
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and _is_dropout(call):
                found.update(range(call.lineno, (call.end_lineno or call.lineno) + 1))
    return frozenset(found)


def _is_dropout(call: ast.Call) -> bool:
    """Whether it is `functional.dropout(x, p)`: of a call by the name of a module nothing is known."""
    named = call.func
    owner = named.value if isinstance(named, ast.Attribute) else None
    called = _called(call)
    functional = called.endswith(("dropout", "dropout1d", "dropout2d", "dropout3d"))
    by_module = isinstance(owner, ast.Name) and owner.id == "self"
    return functional and not by_module and len(call.args) < 3


def _speaks_of_training(function: ast.AST) -> bool:
    return any(
        (isinstance(each, ast.Attribute) and each.attr == _TRAINING)
        or (isinstance(each, ast.Name) and each.id == _TRAINING)
        or (isinstance(each, ast.keyword) and each.arg in (None, _TRAINING))
        for each in ast.walk(function)
    )


_SOFTMAXES = frozenset({"softmax", "log_softmax", "softmin", "_softmax", "_log_softmax"})
_SOFTMAX_MODULES = frozenset({"Softmax", "LogSoftmax", "Softmin"})


def _axes(graph: fx.Graph) -> Iterator[str]:
    """Lines that take a softmax of three axes and do not say along which: torch takes the first then, the samples."""
    for node in graph.nodes:
        if operation_name(node.target) not in _SOFTMAXES or len(node.args) < 2 or node.args[1] != 0:
            continue
        value, found = node.meta.get("val"), user_location(node.meta.get("stack_trace"))
        if not isinstance(value, torch.Tensor) or value.ndim != 3 or found is None or found.line is None:
            continue
        functions, modules = _without_axis(found.file)
        kind = _module_kind(node)
        if kind in modules if kind in _SOFTMAX_MODULES else found.line in functions:
            yield _place(node)


def _module_kind(node: fx.Node) -> str:
    """The class of the innermost module that an operation was traced in."""
    stack: Mapping[str, tuple[str, object]] = node.meta.get("nn_module_stack") or {}
    kinds = [kind for _, kind in stack.values()]
    named = kinds[-1].__name__ if kinds and isinstance(kinds[-1], type) else str(kinds[-1]) if kinds else ""
    return named.rpartition(".")[2]


@lru_cache(maxsize=256)
def _without_axis(file: str) -> tuple[frozenset[int], frozenset[str]]:
    """Lines of calls of softmax functions without an axis; kinds of softmax modules all of which are made without."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return frozenset(), frozenset()
    lines: set[int] = set()
    made: dict[str, list[bool]] = {}
    for call in (each for each in ast.walk(tree) if isinstance(each, ast.Call)):
        called = _called(call)
        told = any(each.arg in (None, "dim", "axis") for each in call.keywords)
        if called in _SOFTMAX_MODULES:
            made.setdefault(called, []).append(not call.args and not told)
        elif called in _SOFTMAXES and len(call.args) == 1 and not told and _is_functional(call):
            lines.update(range(call.lineno, (call.end_lineno or call.lineno) + 1))
    return frozenset(lines), frozenset(name for name, found in made.items() if all(found))


def _is_functional(call: ast.Call) -> bool:
    """Whether it is a function of torch.nn.functional: a tensor's method takes the axis as its one argument."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    named = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return owner is None or named in ("F", "functional")


def _called(call: ast.Call) -> str:
    """The last part of the name that is called."""
    named = call.func
    return named.attr if isinstance(named, ast.Attribute) else named.id if isinstance(named, ast.Name) else ""


def _masks(graph: fx.Graph) -> Iterator[str]:
    """Lines that compare ids of words with one id, of masks that hide all words but those from a softmax.

    For each tensor that comes of such a comparison it is known whether it is true at words or at padding.
    """
    ids = {_unviewed(node.args[1]) for node in graph.nodes if operation_name(node.target) == "embedding"}
    words: dict[fx.Node, tuple[bool, str]] = {}
    for node in graph.nodes:
        name = operation_name(node.target) if node.op == "call_function" else ""
        if name in ("eq", "ne") and _unviewed(node.args[0]) in ids and isinstance(node.args[1], int):
            words[node] = name == "ne", _place(node)
        elif name in ("masked_fill", "masked_fill_") and node.args[1] in words:
            at_words, place = words[node.args[1]]
            if at_words and _hides(node.args[2]):
                yield place
        elif name == "mul" and node.args[0] in words and _hides(node.args[1]):
            at_words, place = words[node.args[0]]
            if at_words:
                yield place
        elif name == "scaled_dot_product_attention":
            mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
            if mask in words and _is_bool(mask) and not words[mask][0]:
                yield words[mask][1]
        elif (told := _told(name, node, words)) is not None:
            words[node] = told


_BY_LUCK = RANDOM | UNWRITTEN
"""Operations whose numbers are others in each run: drawn ones, and what the memory held."""


def _broken(program: ExportedProgram) -> Iterator[str]:
    """Outputs that are computed of stored tensors alone and are no number, by what gives them and its line."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    known = {
        node: program.state_dict[names[node.name]]
        for node in program.graph.nodes
        if node.op == "placeholder" and names.get(node.name) in program.state_dict
    }
    for node in program.graph.output_node().args[0]:
        needed = list(_before(node)) if isinstance(node, fx.Node) and node.op == "call_function" else []
        inner = [each for each in needed if each.op == "call_function"]
        leaves = [each for each in needed if each.op != "call_function"]
        fits = len(inner) <= _STEPS and all(each in known and _is_small(known[each]) for each in leaves)
        if not inner or not leaves or not fits or any(operation_name(each.target) in _BY_LUCK for each in inner):
            continue
        found = _worked_out(sorted(inner), {leaf: known[leaf].detach().clone() for leaf in leaves})
        if isinstance(found, torch.Tensor) and found.is_floating_point() and bool(found.isnan().any()):
            yield f"{operation_name(node.target)} ({_place(node)})"


def _before(node: fx.Node) -> Iterator[fx.Node]:
    waiting, seen = [node], {node}
    while waiting:
        yield (each := waiting.pop())
        waiting += [source for source in each.all_input_nodes if source not in seen]
        seen.update(each.all_input_nodes)


def _worked_out(nodes: list[fx.Node], values: dict[fx.Node, Any]) -> Any:
    """What the last of some operations gives; None where one of them cannot be computed."""
    with torch.no_grad():
        for node in nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            try:
                values[node] = node.target(*args, **kwargs)
            except (RuntimeError, TypeError, ValueError):
                return None
    return values[nodes[-1]]


def _is_small(tensor: torch.Tensor) -> bool:
    return tensor.numel() <= _ENTRIES and not tensor.is_meta


def _told(name: str, node: fx.Node, words: Mapping[fx.Node, tuple[bool, str]]) -> tuple[bool, str] | None:
    """Whether what an operation makes of such a mask is true at words, and the line; None of anything else."""
    known = [words[each] for each in node.args if isinstance(each, fx.Node) and each in words]
    if not known:
        return None
    at_words, place = known[0]
    if name in WHOLE_VIEWS or name in ("repeat", "type_as", "slice", "select") or (name in _JOINS and _agree(known)):
        return at_words, place
    number = node.args[1] if len(node.args) > 1 else None
    if name in _NOT or (name == "eq" and number == 0) or (name == "rsub" and number == 1):
        return not at_words, place
    return (at_words, place) if (name == "ne" and number == 0) or (name == "eq" and number == 1) else None


def _agree(known: list[tuple[bool, str]]) -> bool:
    return len({at_words for at_words, _ in known}) == 1


def _unviewed(value: Any) -> Any:
    while isinstance(value, fx.Node) and operation_name(value.target) in WHOLE_VIEWS:
        value = value.args[0]
    return value


def _hides(value: Any) -> bool:
    return isinstance(value, (int, float)) and value < _HIDES


def _is_bool(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool
