"""The language server, driven by a client: open, diagnose, hover, act."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pygls", reason="gnelint[server] is not installed")

from lsprotocol import types
from pygls.lsp.client import LanguageClient

import gnelint

NETWORK = '''\
"""A network."""

import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(32, 32) for _ in range(24)])
        for layer in self.layers:
            torch.nn.init.normal_(layer.weight, std=0.12)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def make_model():
    return Net(), (torch.randn(8, 32),)


def never():
    raise SystemExit("this was never asked for")
'''
CALL = "x = torch.relu(layer(x))"
TIMEOUT = 120.0


class Editor:
    """An editor with one folder open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = LanguageClient("test", "1")
        self.shown: asyncio.Queue[types.PublishDiagnosticsParams] = asyncio.Queue()
        self.said: list[str] = []
        self.client.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)(lambda params: self.shown.put_nowait(params))
        self.client.feature(types.WINDOW_SHOW_MESSAGE)(lambda params: self.said.append(params.message))

    async def start(self, *words: str, targets: Any = ()) -> types.InitializeResult:
        await self.client.start_io(sys.executable, "-m", "gnelint", "server", *words, cwd=self.folder)
        params = types.InitializeParams(
            capabilities=types.ClientCapabilities(),
            root_uri=self.folder.as_uri(),
            initialization_options={"targets": list(targets)},
        )
        found = await self.client.initialize_async(params)
        self.client.initialized(types.InitializedParams())
        return found

    def open(self, file: Path) -> None:
        item = types.TextDocumentItem(file.as_uri(), "python", 1, file.read_text())
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))

    def save(self, file: Path, text: str) -> None:
        file.write_text(text)
        document = types.VersionedTextDocumentIdentifier(2, file.as_uri())
        whole = types.TextDocumentContentChangeWholeDocument(text)
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(document, [whole]))
        saved = types.DidSaveTextDocumentParams(types.TextDocumentIdentifier(file.as_uri()))
        self.client.text_document_did_save(saved)

    async def diagnostics(self) -> list[types.Diagnostic]:
        return list((await asyncio.wait_for(self.shown.get(), TIMEOUT)).diagnostics)

    async def stop(self) -> None:
        await asyncio.wait_for(self.client.shutdown_async(None), TIMEOUT)
        self.client.exit(None)
        await self.client.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(NETWORK)
    return path


def drive(file: Path, steps: Callable[[Editor], Awaitable[None]]) -> None:
    async def all_steps() -> None:
        editor = Editor(file.parent)
        try:
            await steps(editor)
        finally:
            await editor.stop()

    with ThreadPoolExecutor(1) as thread:  # in this one the browser of other tests may have a loop of its own
        thread.submit(asyncio.run, all_steps()).result()


def line_of(text: str) -> int:
    return next(at for at, line in enumerate(NETWORK.splitlines()) if text in line)


def applied(text: str, edits: list[types.TextEdit]) -> str:
    lines = [*text.splitlines(keepends=True)]
    for edit in sorted(edits, key=lambda edit: -edit.range.start.line):
        lines[edit.range.start.line : edit.range.end.line] = [edit.new_text]
    return "".join(lines)


def test_open_diagnose_hover_act(file: Path) -> None:
    async def steps(editor: Editor) -> None:
        await editor.start(targets=["train.py:make_model --select GNE101,GNE501"])
        editor.open(file)
        found = await editor.diagnostics()
        by_rule = {str(one.code): one for one in found}
        assert set(by_rule) == {"GNE101", "GNE501"}
        gain, whole = by_rule["GNE101"], by_rule["GNE501"]
        assert gain.range.start.line == line_of(CALL)
        assert (gain.severity, gain.source) == (types.DiagnosticSeverity.Error, "gnelint")
        assert gain.message.startswith("24 places")
        assert "Fix: multiply layers" in gain.message
        assert whole.range.start.line == line_of("def make_model")

        document = types.TextDocumentIdentifier(file.as_uri())
        hover = await editor.client.text_document_hover_async(types.HoverParams(document, gain.range.start))
        assert hover is not None
        assert hover.contents.value.startswith("# gain-mismatch (GNE101)")
        assert await editor.client.text_document_hover_async(types.HoverParams(document, types.Position(0, 0))) is None

        context = types.CodeActionContext([gain])
        asked = types.CodeActionParams(document, gain.range, context)
        (action,) = await editor.client.text_document_code_action_async(asked) or []
        assert isinstance(action, types.CodeAction)
        assert action.edit is None
        done = await editor.client.code_action_resolve_async(action)
        assert done.edit is not None
        fixed = applied(NETWORK, list(done.edit.changes[file.as_uri()]))
        assert "import torch\nimport math\nfrom torch import nn\n" in fixed
        namespace: dict[str, Any] = {}
        exec(fixed, namespace)
        net, inputs = namespace["make_model"]()
        namespace["init_weights"](net)
        assert not gnelint.check(net, inputs, select=["GNE101", "GNE501"]).findings

    drive(file, steps)


@pytest.mark.slow  # two processes that load torch
def test_a_file_is_checked_again_when_it_is_saved(file: Path) -> None:
    async def steps(editor: Editor) -> None:
        await editor.start("train.py:make_model --select GNE101")
        editor.open(file)
        assert len(await editor.diagnostics()) == 1
        editor.save(file, NETWORK.replace("std=0.12", "std=(2 / 32) ** 0.5"))
        assert await editor.diagnostics() == []

    drive(file, steps)


def test_nothing_is_run_that_was_not_told(file: Path) -> None:
    async def steps(editor: Editor) -> None:
        await editor.start(targets=["--version", 5])
        editor.open(file)
        document = types.TextDocumentIdentifier(file.as_uri())
        forged = types.CodeAction("x", data={"words": ["train.py:never"]})
        assert (await editor.client.code_action_resolve_async(forged)).edit is None
        context = types.CodeActionContext([])
        asked = types.CodeActionParams(document, types.Range(types.Position(0, 0), types.Position(99, 0)), context)
        assert not await editor.client.text_document_code_action_async(asked)
        assert editor.shown.empty()
        assert [message.partition(":")[0] for message in editor.said] == ["--version", "5"]

    drive(file, steps)


@pytest.mark.slow
def test_what_cannot_be_checked_is_said_where_it_is_defined(file: Path) -> None:
    async def steps(editor: Editor) -> None:
        await editor.start("train.py:never")
        editor.open(file)
        (found,) = await editor.diagnostics()
        assert found.range.start.line == line_of("def never")
        assert "this was never asked for" in found.message

    drive(file, steps)
