"""YAML with the line of every key kept: duplicate keys, aliases and foreign tags are refused."""

from __future__ import annotations

from typing import Any

import yaml

from gnelint.errors import RuleError
from gnelint.lint.document import Document, Path

MAX_DEPTH = 20
"""How deep a file may nest; the C loader recurses and would take the process down with it."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}


def parse(text: str, file: str) -> Document:
    """Parse one document.

    Raises:
        RuleError: it is not YAML, holds a key twice, an alias, or a tag other than the plain scalars.
    """
    loader = _LOADER(text)
    try:
        _check_depth(text, file)
        root = loader.get_single_node()
        reader = _Reader(loader, file)
        data = None if root is None else reader.read(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark is not None else file
        raise RuleError(where, f"not valid YAML ({error.problem or error.context})") from None
    except yaml.YAMLError as error:
        raise RuleError(file, f"not valid YAML ({' '.join(str(error).split())})") from None
    finally:
        loader.dispose()
    return Document(file, data, reader.lines, reader.text_lines)


def _check_depth(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark is not None else 1
            raise RuleError(f"{file}:{line}", f"nested deeper than {MAX_DEPTH} levels", "A rule file is flat.")


class _Reader:
    def __init__(self, loader: Any, file: str) -> None:
        self.loader = loader
        self.file = file
        self.lines: dict[Path, int] = {}
        self.text_lines: dict[Path, int] = {}
        self.visited: set[int] = set()

    def read(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if id(node) in self.visited:
            where = f"{self.file}:{self.lines[path]}"
            raise RuleError(where, "an alias (*name) is not allowed", "Write the value out.")
        self.visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag not in _SCALARS:
            raise RuleError(f"{self.file}:{line}", f"the type {node.tag} is not allowed", "Quote it to make it text.")
        self.text_lines[path] = line + (getattr(node, "style", None) in ("|", ">"))
        try:
            return self.loader.construct_object(node)
        except ValueError as error:  # YAML takes "0x_" for an integer, Python does not
            raise RuleError(f"{self.file}:{line}", f"{str(node.value)[:40]!r} is not a value ({error})") from None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _SCALARS:
                raise RuleError(f"{self.file}:{line}", "a key must be plain text")
            if key in found:
                raise RuleError(f"{self.file}:{line}", f'the key "{key}" is given twice', "Keep one of them.")
            self.lines[(*path, key)] = line
            found[key] = self.read(value_node, (*path, key))
        return found
