"""The language server, over pygls: it checks the targets that it is told of when their files are opened and saved.

Code runs in processes of its own, `gnelint check` and `gnelint fix`, never in the server, and only that of targets
which the user has named: as arguments of `gnelint server`, or in the editor as the initialization option
`{"targets": ["train.py:make_model --input 8,3,32,32"]}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from gnelint.app.watching import files_of
from gnelint.errors import GnelintError
from gnelint.files import read_text
from gnelint.lint.rulefile import load_rules
from gnelint.output.explain import explanation
from gnelint.output.report import sentences
from gnelint.server.insertion import insertion
from gnelint.server.told import Told
from gnelint.version import __version__

SOURCE = "gnelint"
_SEVERITIES = {
    "error": types.DiagnosticSeverity.Error,
    "warning": types.DiagnosticSeverity.Warning,
    "info": types.DiagnosticSeverity.Information,
}
_TITLE = "Insert init_weights(model), to be called once the model is made"

Diagnostics = dict[str, list[types.Diagnostic]]
"""By the uri of the file that they are about."""


@dataclass
class Service:
    """What the server knows.

    Attributes:
        told: the targets.
        root: the folder that the editor has open; targets, their files and processes start from there.
        shown: what was last said of each target.
        explained: the explanations of rules that the last reports brought, by id.
        running: the check of each target that is under way.
    """

    server: LanguageServer
    told: list[Told]
    root: Path = field(default_factory=Path.cwd)
    shown: dict[Told, Diagnostics] = field(default_factory=dict)
    explained: dict[str, str] = field(default_factory=dict)
    running: dict[Told, asyncio.Task[None]] = field(default_factory=dict)

    def initialize(self, params: types.InitializeParams) -> None:
        """Take the folder and the targets from the editor."""
        if self.server.workspace.root_path:
            self.root = Path(self.server.workspace.root_path)
        options = params.initialization_options
        for text in options.get("targets", []) if isinstance(options, dict) else []:
            try:
                self.told.append(Told.of(str(text)))
            except GnelintError as error:
                self._say(str(error))

    def visit(self, uri: str, *, again: bool) -> None:
        """Check the targets that a file bears on: those that were not checked yet, or all."""
        path = to_fs_path(uri)
        for told in self.told if path else ():
            if Path(path or "").resolve() in self._files(told) and (again or told not in self.running):
                if told in self.running:
                    self.running[told].cancel()
                self.running[told] = asyncio.create_task(self._check(told))

    def _files(self, told: Told) -> set[Path]:
        """The files whose change may change what is said of a target."""
        file = told.file(self.root)
        of_target = () if file is None else files_of([f"{file}:_"], [])
        return {path.resolve() for path in (*of_target, *map(Path, self._reported(told)))}

    def _reported(self, told: Told) -> Iterable[str]:
        return filter(None, map(to_fs_path, self.shown.get(told, {})))

    async def _check(self, told: Told) -> None:
        code, printed, said = await self._run("check", *told.words, "--format", "json")
        if code in (0, 1):
            report = json.loads(printed)
            self.explained.update({rule["id"]: rule["explanation"] for rule in report["rules"]})
            found = self._diagnostics(told, report["targets"][0])
        else:
            found = self._at_definition(told, said.strip().rpartition("\n")[2].removeprefix("gnelint: "))
        before, self.shown[told] = self.shown.get(told, {}), found
        for uri in {*before, *found}:
            every = [one for shown in self.shown.values() for one in shown.get(uri, [])]
            self.server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri=uri, diagnostics=every))

    async def _run(self, *words: str) -> tuple[int, str, str]:
        """A gnelint of its own: exit code, standard output, standard error. It ends with the task that waits for it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gnelint", *words),
            cwd=self.root,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.kill()
            raise
        return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")

    def _diagnostics(self, told: Told, entry: Mapping[str, Any]) -> Diagnostics:
        """What is said of a target: one for all findings of a rule at a line."""
        groups: dict[tuple[str, str, str, int], list[Mapping[str, Any]]] = {}
        for finding in entry["findings"]:
            uri, line = self._place(told, finding["location"])
            if uri:
                groups.setdefault((uri, finding["rule"], finding["severity"], line), []).append(finding)
        found: Diagnostics = {}
        for (uri, rule, severity, line), group in groups.items():
            edits = any(finding["fix"] and finding["fix"]["edits"] for finding in group)
            message = "\n".join(sentences(group, entry["summary"]["trained"]))
            data = {"words": list(told.words)} if edits else None
            found.setdefault(uri, []).append(_diagnostic(uri, line, message, severity, rule, data))
        return found

    def _place(self, told: Told, location: Mapping[str, Any] | None) -> tuple[str, int]:
        """The file and line of a finding: that of the target itself where none of the user's is known."""
        if location is not None and location["line"] is not None:
            file = self.root / location["file"]
            if file.resolve().is_relative_to(self.root.resolve()):
                return from_fs_path(str(file)) or "", location["line"]
        own = told.file(self.root)
        return "" if own is None else from_fs_path(str(own)) or "", told.line(self.root)

    def _at_definition(self, told: Told, problem: str) -> Diagnostics:
        """That a target could not be checked, where it is defined."""
        uri, line = self._place(told, None)
        if not uri:
            self._say(problem)
            return {}
        return {uri: [_diagnostic(uri, line, problem, "error")]}

    def hover(self, params: types.HoverParams) -> types.Hover | None:
        """The explanations of the rules that speak of a line."""
        at = params.position.line
        shown = [one for one in self._of(params.text_document.uri) if one.range.start.line == at]
        rules = dict.fromkeys(str(one.code) for one in shown if one.code)
        texts = [text for rule in rules if (text := self._explanation(rule))]
        if not texts:
            return None
        return types.Hover(types.MarkupContent(types.MarkupKind.Markdown, "\n\n---\n\n".join(texts)))

    def _explanation(self, rule_id: str) -> str:
        rule = load_rules().get(rule_id)
        return self.explained.get(rule_id, "") if rule is None else explanation(rule)

    def _of(self, uri: str) -> list[types.Diagnostic]:
        path = to_fs_path(uri)
        return [
            one
            for shown in self.shown.values()
            for other, those in shown.items()
            if to_fs_path(other) == path
            for one in those
        ]

    def actions(self, params: types.CodeActionParams) -> list[types.CodeAction]:
        """The fix of each target that a rule speaks of in these lines; it is worked out when it is chosen."""
        first, last = params.range.start.line, params.range.end.line
        fixable: dict[tuple[str, ...], list[types.Diagnostic]] = {}
        for one in self._of(params.text_document.uri):
            if one.data and first <= one.range.start.line <= last:
                fixable.setdefault(tuple(one.data["words"]), []).append(one)
        return [
            types.CodeAction(
                title=_TITLE if len(fixable) == 1 else f"{_TITLE} ({words[0]})",
                kind=types.CodeActionKind.QuickFix,
                diagnostics=diagnostics,
                data={"words": list(words)},
            )
            for words, diagnostics in fixable.items()
        ]

    async def resolve(self, action: types.CodeAction) -> types.CodeAction:
        """The edit of an action: what `gnelint fix --emit-init` writes, put into the target's file."""
        told = Told(tuple(action.data["words"])) if isinstance(action.data, dict) else None
        file = told.file(self.root) if told in self.told and told is not None else None
        if told is None or file is None:  # only what the user told of is run, whatever an action holds
            return action
        with tempfile.TemporaryDirectory(prefix="gnelint-") as folder:
            emitted = Path(folder) / "init_weights.py"
            _, printed, said = await self._run("fix", *told.words, "--emit-init", str(emitted))
            code = read_text(emitted) if emitted.is_file() else ""
        uri = from_fs_path(str(file)) or ""
        try:
            changes = insertion(self.server.workspace.get_text_document(uri).source, code) if code else []
        except SyntaxError as error:
            said = f"{file}: line {error.lineno} is not Python yet."
            changes = []
        if changes:
            action.edit = types.WorkspaceEdit(changes={uri: [_edit(one.start, one.end, one.text) for one in changes]})
        else:
            self._say((said or printed).strip().rpartition("\n\n")[2])
        return action

    def _say(self, message: str) -> None:
        self.server.window_show_message(types.ShowMessageParams(types.MessageType.Warning, message))


def _edit(start: int, end: int, text: str) -> types.TextEdit:
    return types.TextEdit(types.Range(types.Position(start, 0), types.Position(end, 0)), text)


def _diagnostic(
    uri: str, line: int, message: str, severity: str, rule: str | None = None, data: Mapping[str, Any] | None = None
) -> types.Diagnostic:
    at, end = max(line - 1, 0), _length(uri, line)
    return types.Diagnostic(
        range=types.Range(types.Position(at, 0), types.Position(at, end)),
        message=message,
        severity=_SEVERITIES[severity],
        code=rule,
        source=SOURCE,
        data=data,
    )


def _length(uri: str, line: int) -> int:
    """The characters of a line of a file."""
    try:
        return len(read_text(Path(to_fs_path(uri) or "")).splitlines()[line - 1])
    except (OSError, ValueError, IndexError):
        return 0


def language_server(targets: Sequence[str]) -> LanguageServer:
    """The server, which has been told of these targets.

    Raises:
        UsageError: one of them is no target in Python.
    """
    server = LanguageServer("gnelint", __version__)
    service = Service(server, [Told.of(text) for text in targets])
    kinds = types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.QuickFix], resolve_provider=True)

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        service.initialize(params)

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    async def opened(params: types.DidOpenTextDocumentParams) -> None:
        service.visit(params.text_document.uri, again=False)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    async def saved(params: types.DidSaveTextDocumentParams) -> None:
        service.visit(params.text_document.uri, again=True)

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    def hover(params: types.HoverParams) -> types.Hover | None:
        return service.hover(params)

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, kinds)
    def actions(params: types.CodeActionParams) -> list[types.CodeAction]:
        return service.actions(params)

    @server.feature(types.CODE_ACTION_RESOLVE)
    async def resolve(action: types.CodeAction) -> types.CodeAction:
        return await service.resolve(action)

    return server
