"""The last lines of a run: how many failures the rules missed, and how many good designs they blamed."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what the tests recorded; xdist hands the records of its workers on."""
    seen: dict[str, bool] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seen.update(dict(report.user_properties))
    for kind, said in (("failure", "missed"), ("design", "blamed with an error")):
        names = {name: wrong for name, wrong in seen.items() if name.startswith(kind)}
        if names:
            wrong = [name.removeprefix(f"{kind} ") for name, wrong in sorted(names.items()) if wrong]
            listed = f": {', '.join(wrong)}" if wrong else ""
            terminalreporter.write_line(f"{len(names)} {kind}s, {len(wrong)} {said}{listed}")
