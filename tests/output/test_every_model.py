"""Every model that the onnx package carries or generates, through every output format."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from gnelint.app import batch
from gnelint.cli.check import FORMATS
from gnelint.output import html, json, node_data, text
from gnelint.output.report import Checked, Report, Unread
from gnelint.readers.target import Target
from gnelint.settings.jobs import Job
from tests.benchmarks.onnx_sweep import models

RULES = batch.rules_of(()).rules
NAMES = {rule.id: rule.name for rule in RULES}


def rendered(found: Checked, form: str) -> str:
    """The report of one target as the command line prints it."""
    if form == "text":
        return text.render(found.entry, NAMES, found.notes, text.Style())
    if form == "json":
        return json.dumps(json.document([found.entry], RULES))
    made: str = import_module(f"gnelint.output.{form}").render(Report((found,), rules=RULES))
    return made


def problems(found: Checked) -> list[str]:
    """What cannot be shown of an answer."""
    wrong = []
    for form in FORMATS:
        try:
            assert rendered(found, form)
        except Exception as error:
            wrong.append(f"{found.entry['target']} as {form}: {type(error).__name__}: {error}")
    try:
        assert html.render(json.document([found.entry], RULES), None)
        assert node_data.dumps(found.entry)
    except Exception as error:
        wrong.append(f"{found.entry['target']} as a page: {type(error).__name__}: {error}")
    return wrong


@pytest.mark.slow
def test_every_model_of_the_onnx_package_is_shown(tmp_path: Path) -> None:
    files = {name: path for _, name, path in models(tmp_path)}
    jobs = [Job(Target(name, "onnx", path=path)) for name, path in files.items()]
    wrong: list[str] = []
    for found in batch.answers(jobs, 2):
        if isinstance(found, Unread):
            wrong += [found.reason] if "itself failed" in found.reason or "ended the process" in found.reason else []
        else:
            wrong += problems(replace(found, selected=tuple(NAMES)))
    assert wrong == []
