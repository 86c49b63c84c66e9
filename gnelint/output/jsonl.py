"""A JSON object a line, one for each target, so that each can be told as soon as it is known.

A target's line is its entry in the JSON report with the schema's name; that of one which could not be checked has
`target` and `error`.
"""

from __future__ import annotations

import json

from gnelint.output.json import SCHEMA
from gnelint.output.report import Checked, Report, Unread


def render(report: Report) -> str:
    """The lines of a whole run: what was checked, in order, then what could not be."""
    return "".join([*map(line, report.targets), *map(line, report.unread)])


def line(answer: Checked | Unread) -> str:
    """The line of one target."""
    said = {"target": answer.target, "error": answer.reason} if isinstance(answer, Unread) else dict(answer.entry)
    return json.dumps({"schema": SCHEMA, **said}, allow_nan=False) + "\n"
