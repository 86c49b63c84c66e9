"""Rule files: YAML read with its lines and checked. What they match and compute is compiled in `program`.

The rules that ship with gnelint are checked against the JSON Schema by the tests, a user's when they are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gnelint.errors import RuleError
from gnelint.files import read_bytes
from gnelint.lint.document import Document
from gnelint.lint.document import Path as KeyPath
from gnelint.lint.explaining import cycle
from gnelint.lint.shipped import shipped_documents
from gnelint.records import cached_property, dataclass
from gnelint.words import close

if TYPE_CHECKING:
    from gnelint.lint.pattern import Pattern
    from gnelint.lint.program import Program, RunPlan

SCHEMA = 1
"""The newest major of the rule format that this version reads."""

MAX_FILE_SIZE = 1 << 18

Over = Literal["nodes", "blocks", "network"]


@dataclass(frozen=True)
class Parameter:
    """A number, text or switch of a rule that a configuration may set."""

    default: float | str | bool
    help: str


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        over: what it looks at: matches of its pattern, every block, or the network once.
        explained_by: ids of the rules that it yields to (`gnelint.lint.explaining`).
        references, tests: as the file has them.
        document: the file that it was read from.
    """

    id: str
    name: str
    group: str
    status: Literal["stable", "preview"]
    stage: Literal["init", "any"]
    summary: str
    over: Over
    params: Mapping[str, Parameter]
    explained_by: tuple[str, ...]
    explain: str
    references: tuple[Mapping[str, str], ...]
    tests: tuple[Mapping[str, Any], ...]
    document: Document = field(repr=False)

    @property
    def file(self) -> str:
        """Where it was read from."""
        return self.document.file

    @cached_property
    def pattern(self) -> Pattern | None:
        """What it matches, compiled when it is first asked for; None unless `over` is "nodes"."""
        from gnelint.lint.program import pattern_of  # what compiles needs numpy: a known answer is told without it

        return pattern_of(self.document)

    @cached_property
    def run(self) -> RunPlan:
        """What `total` and its like run over."""
        from gnelint.lint.program import run_of

        return run_of(self.document)

    @cached_property
    def program(self) -> Program:
        """Its expressions. They are compiled when they are first asked for: most rules match nothing in a network."""
        from gnelint.lint.program import program_of

        return program_of(self.document, self.pattern)


@dataclass(frozen=True)
class RuleSet:
    """Rules in the order of their ids, and what a person should know about files that were left out."""

    rules: tuple[Rule, ...]
    warnings: tuple[str, ...] = ()

    def get(self, word: str) -> Rule | None:
        """The rule of this id or name, in letters of either case."""
        wanted = word.upper()
        return next((rule for rule in self.rules if wanted in (rule.id, rule.name.upper())), None)


@cache
def builtin_directory() -> Path:
    """Where gnelint's own rules are: inside an installed package, or beside the package in a checkout.

    Raises:
        RuleError: neither place holds any; the installation is damaged.
    """
    package = Path(__file__).resolve().parents[1]
    for directory in (package / "_rules", package.parent / "rules"):
        if _rule_names(directory):
            return directory
    raise RuleError(str(package / "_rules"), "gnelint's own rules are missing", "Install gnelint again.")


def _rule_names(directory: Path) -> list[str]:
    """The rule files of a directory, in order; `glob` takes twice as long, at every start."""
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(".yaml"))
    except OSError:
        return []


def is_builtin(rule: Rule) -> bool:
    """Whether a rule is one of gnelint's own."""
    own = builtin_directory()
    return Path(rule.file).parent == own or Path(rule.file).resolve().parent == own.resolve()


def load_rules(paths: Sequence[Path] = ()) -> RuleSet:
    """gnelint's own rules and those of the given files and directories.

    Raises:
        RuleError: a file is missing or not valid, two rules have one id, or rules yield to each other in a circle.
    """
    found: dict[str, Rule] = {}
    warnings: list[str] = []
    own = builtin_directory()
    documents = shipped_documents([own / name for name in _rule_names(own)])
    for rule in (*map(_rule, documents), *(load_rule(path) for path in rule_files(paths))):
        if isinstance(rule, str):
            warnings.append(rule)
        elif rule.id in found:
            raise RuleError(rule.file, f"the id {rule.id} belongs to {found[rule.id].file} already", "Choose another.")
        else:
            found[rule.id] = rule
    loop = cycle({rule.id: rule.explained_by for rule in found.values()})
    if loop:
        told = " to ".join((*loop, loop[0]))
        raise RuleError(found[loop[0]].file, f"explained_by: {told} yield in a circle", "Break it at one of them.")
    return RuleSet(tuple(found[key] for key in sorted(found)), tuple(warnings))


def rule_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those in the directories among them.

    Raises:
        RuleError: a directory holds none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix in (".yaml", ".yml"))
            if not inside:
                raise RuleError(str(path), "the directory holds no rule file", "Rule files end in .yaml or .yml.")
            files.extend(inside)
        else:
            files.append(path)
    return files


def load_rule(path: Path) -> Rule | str:
    """Read and check one file. The answer is a sentence, and no rule, if the file needs a newer gnelint.

    Raises:
        RuleError: the file cannot be read or is not a valid rule.
    """
    try:
        raw = read_bytes(path, MAX_FILE_SIZE)
    except OSError as error:
        raise RuleError(str(path), f"cannot be read ({error.strerror})", "Check the path given to --rules.") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RuleError(str(path), "not a text in UTF-8", "Rule files are YAML.") from None
    from gnelint.lint.yaml_marks import parse  # slow to import, and only a user's own rules need it

    document = parse(text, str(path))
    if not isinstance(document.data, dict):
        raise document.error((), "a rule file holds keys and values", "Start from one of gnelint's own rules.")
    schema = document.data.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise document.error(("schema",), "the first key must be schema: 1")
    if schema > SCHEMA:
        return f"{path}: needs rule schema {schema}, this gnelint reads {SCHEMA}; skipped. Update gnelint."
    validate_document(document)
    rule = _rule(document)
    _ = rule.pattern, rule.run  # an error in them is one of the file, not a surprise in front of a model
    rule.program.compile_all()
    return rule


def validate_document(document: Document) -> None:
    """Check a parsed rule file against the JSON Schema.

    Raises:
        RuleError: it does not conform; the error names the line and the key.
    """
    import jsonschema  # slow to import, and only a user's own rules need it

    schema = json.loads(Path(__file__).with_name("rule.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(document.data))
    if error is None:
        return
    path: KeyPath = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        allowed = list(error.schema["properties"])
        key = next(key for key in error.instance if key not in allowed)
        meant = close(str(key), allowed)
        advice = f'Did you mean "{meant[0]}"?' if meant else f"Known keys: {', '.join(allowed)}."
        raise document.error((*path, key), f'unknown key "{key}"', advice)
    raise document.error(path, error.message)


def _rule(document: Document) -> Rule:
    """The rule in a document that conforms to the schema."""
    data = document.data
    return Rule(
        id=data["id"],
        name=data["name"],
        group=data["group"],
        status=data.get("status", "stable"),
        stage=data["stage"],
        summary=data["summary"],
        over=data.get("over", "nodes"),
        params={name: Parameter(**entry) for name, entry in data.get("params", {}).items()},
        explained_by=tuple(data.get("explained_by", ())),
        explain=data["explain"],
        references=tuple(data.get("references", ())),
        tests=tuple(data.get("tests", ())),
        document=document,
    )
