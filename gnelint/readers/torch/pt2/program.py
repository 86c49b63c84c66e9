"""What an exported program may say before torch builds it.

torch resolves the targets of nodes by looking names up in its modules, writes the names of values into Python source
that it executes, imports modules that tree structures name, and keeps guards as source. Everything of this kind is
checked here, or left out where nothing of gnelint reads it.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from torch._export.serde import schema

from gnelint.errors import UnreadableError
from gnelint.nn.operators import NAMESPACE
from gnelint.readers.torch.pt2.symbols import check_expression

EXPORT_AGAIN = "Export the model again with torch.export.save(torch.export.export(model, args), path)."

_LIBRARIES = rf"torch\.ops\.(aten|prims|torchvision|quantized_decomposed|{NAMESPACE})\.\w+\.\w+"
_HIGHER = (
    r"torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|associative_scan|wrap|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast|wrap_activation_checkpoint|tag_activation_checkpoint|invoke_subgraph|flex_attention"
    r"|auto_functionalized|auto_functionalized_v2|out_dtype|hints_wrapper)"
)
_SIZES = (
    r"_operator\.(getitem|eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift)"
    r"|math\.(trunc|ceil|floor)|torch\.sym_(not|int|float|ite|max|min|sqrt|sum)"
)
_OPERATION = re.compile(f"{_LIBRARIES}|{_HIGHER}|{_SIZES}")
_FORBIDDEN = re.compile(r"torch\.ops\.aten\.(from_file|_?print|_assert_async|fbgemm_\w+)\b.*")
"""Of the allowed libraries, what reads files or prints."""
_PATH = re.compile(r"[\w.\-:/ ]{0,500}")
_TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
                    "torch.fx.immutable_collections.immutable_list",
                    "torch.fx.immutable_collections.immutable_dict"})  # fmt: skip
_METADATA = ("stack_trace", "nn_module_stack")
_DIALECTS = frozenset({"ATEN", "TRAINING"})
_DEVICES = frozenset({"cpu", "cuda", "xpu", "mps", "meta"})
MAX_SIZE = 1 << 48


def checked(program: schema.ExportedProgram) -> schema.ExportedProgram:
    """A program of which nothing that is code is left; it computes on the CPU, wherever it was exported.

    Raises:
        UnreadableError: it names something that is no operation of a network, or damaged.
    """
    for part in _parts(program):
        _check(part)
    program.guards_code = []
    program.verifiers = [name for name in program.verifiers if name in _DIALECTS]
    program.graph_module.metadata = {}
    return program


def _parts(whole: object) -> Iterator[Any]:
    """Every record of the schema within one, without recursion: a file may be nested as deep as it likes."""
    waiting = [whole]
    while waiting:
        found = waiting.pop()
        if isinstance(found, schema._Union):
            waiting.append(found.value)
        elif is_dataclass(found):
            waiting.extend(getattr(found, each.name) for each in fields(found))
        elif isinstance(found, dict):
            waiting.extend(found.values())
        elif isinstance(found, (list, tuple)):
            waiting.extend(found)
        if is_dataclass(found):
            yield found


def _check(part: Any) -> None:
    match part:
        case schema.SymExpr():
            check_expression(part.expr_str)
        case schema.Node():
            _check_operation(part.target)
            _check_name(part.name or "")
            part.metadata = {key: str(part.metadata[key]) for key in _METADATA if key in part.metadata}
        case schema.Argument() if part.type == "as_operator":
            _check_operation(part.value)
        case schema.SymIntArgument() | schema.SymFloatArgument() | schema.SymBoolArgument() if part.type == "as_name":
            _check_name(part.value)
        case schema.SymInt() if part.type == "as_int":
            if not isinstance(part.value, int) or not -MAX_SIZE < part.value < MAX_SIZE:
                raise UnreadableError(f"has the impossible size {str(part.value)[:40]}", EXPORT_AGAIN)
        case schema.Device():
            if part.type not in _DEVICES:
                raise UnreadableError(f'names the unknown device "{part.type}"', EXPORT_AGAIN)
            part.type, part.index = "meta" if part.type == "meta" else "cpu", None
        case schema.ModuleCallSignature():
            _check_tree(part.in_spec, keywords=True)
            _check_tree(part.out_spec)
            for name in part.forward_arg_names or ():
                _check_name(name)
        case schema.ModuleCallEntry():
            _check_path(part.fqn)
    for each in fields(part) if is_dataclass(part) and not isinstance(part, schema._Union) else ():
        if each.name == "name":
            _check_name(part.name or "")
        elif each.name.endswith("_name"):
            _check_path(getattr(part, each.name))


def _check_operation(target: object) -> None:
    if not isinstance(target, str) or not _OPERATION.fullmatch(target) or _FORBIDDEN.fullmatch(target):
        problem = f"calls {str(target)[:80]!r}, which is no operation of ATen, torchvision or control flow; refused"
        raise UnreadableError(problem, "Run program.run_decompositions() before saving, or check the module itself.")


def _check_name(name: object) -> None:
    """Names of values become names in Python source."""
    if not isinstance(name, str) or (name and (not name.isidentifier() or keyword.iskeyword(name))):
        raise UnreadableError(f"a value in it has the impossible name {str(name)[:60]!r}; refused", EXPORT_AGAIN)


def _check_path(path: object) -> None:
    """Names of tensors and submodules; between quotation marks in Python source."""
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise UnreadableError(f"a tensor in it has the impossible name {str(path)[:60]!r}; refused", EXPORT_AGAIN)


def _check_tree(text: object, *, keywords: bool = False) -> None:
    """The structure of arguments or results: plain containers, since others are imported by their names.

    Args:
        keywords: whether it is that of arguments, whose keys become names in Python source.
    """
    damaged = UnreadableError("the structure of its inputs or outputs is damaged", EXPORT_AGAIN)
    try:
        _, tree = json.loads(str(text))
        arguments = tree["children_spec"][1] if keywords and len(tree["children_spec"]) > 1 else None
        waiting = [tree]
        while waiting:
            part = waiting.pop()
            kind, context = part["type"], json.loads(part["context"] or "null")
            waiting.extend(part["children_spec"])
            if kind is not None and kind not in _TREES:
                problem = f"its inputs or outputs are a {str(kind)[:60]!r}, which would have to be imported; refused"
                raise UnreadableError(problem, "Export a module that takes and returns tuples, lists and dicts.")
            keys = [] if context is None else context
            if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
                raise damaged
            if part is arguments:
                for key in keys:
                    _check_name(key)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged from error
