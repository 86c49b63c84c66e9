"""One run over targets, each of which may go wrong without stopping the others."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnelint.cli.terminal import EXIT_STOPPED, complain, show_progress, show_trace
from gnelint.errors import GnelintError, UsageError
from gnelint.progress import Clock, Line
from gnelint.words import plural

if TYPE_CHECKING:
    from gnelint.budget import Tell
    from gnelint.output.report import Checked, Report, Unread
    from gnelint.readers.target import Target
    from gnelint.settings.jobs import Job, Options


def job_options(given: Mapping[str, Any]) -> Options:
    from gnelint.readers.inputs import parse_input
    from gnelint.settings.jobs import Options

    names = [option.name for option in fields(Options) if option.name != "inputs" and option.name in given]
    return Options(tuple(parse_input(text) for text in given["inputs"]), **{name: given[name] for name in names})


@dataclass
class Run:
    """Checks targets and says what goes wrong; one that cannot be checked does not stop the others."""

    verbose: bool
    unread: list[Unread] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    stopped: bool = False
    line: Line = field(default_factory=lambda: Line(show_progress))

    @property
    def listener(self) -> Tell | None:
        """What is told where the work is; nobody, unless standard error is a terminal."""
        return self.line.at if sys.stderr.isatty() else None

    def targets(self, texts: Sequence[str], weights: Path | None = None, meta: bool = False) -> list[Target]:
        """The models that the user's words name, built from a checkpoint or without numbers if that is asked for."""
        from gnelint.readers.target import resolve

        found: list[Target] = []
        for text in texts:
            try:
                found.extend(resolve(text))
            except GnelintError as error:
                self.fail(text, error)
        if weights is None and not meta:
            return found
        for target in found:
            if target.kind != "python":
                option = "--weights" if weights is not None else "--meta"
                raise UsageError(option, f"{target.text} is a file that holds its weights", "Name a Python target.")
        return [replace(target, weights=weights, meta=meta) for target in found]

    def answers(
        self,
        jobs: Sequence[Job],
        found: Generator[Checked | Unread, None, None],
        known: Callable[[Job, Checked], Checked],
        tell: Callable[[Checked | Unread], None] | None,
    ) -> list[tuple[Job, Checked]]:
        """The jobs that could be done, with what there is to say; an interrupt ends it with those that are done.

        Args:
            jobs: what is to be done.
            found: their answers, in order.
            known: takes what is known already from an answer.
            tell: shows an answer at once; None where all are shown together.
        """
        from gnelint.output.report import Unread

        done: list[tuple[Job, Checked]] = []
        clock = Clock()
        try:
            for index, job in enumerate(jobs, start=1):
                self.line.begin(f"[{index}/{len(jobs)}{clock.left(index - 1, len(jobs))}] {job.target.text}")
                answer = next(found)
                if isinstance(answer, Unread):
                    self.tell(answer)
                else:
                    self.warn(*filter(None, [answer.warning]))
                    answer = known(job, answer)
                    done.append((job, answer))
                if tell is not None:
                    tell(answer)
        except KeyboardInterrupt:
            if not done:
                raise
            self.stopped = True
            show_progress("")
            complain(f"stopped after {len(done) + len(self.unread)} of {plural(len(jobs), 'target')}.")
        finally:
            found.close()  # ends the workers; Python would wait for them at its own end
        show_progress("")
        return done

    def code(self, report: Report) -> int:
        """The exit code of what this run reports."""
        return EXIT_STOPPED if self.stopped else report.exit_code

    def warn(self, *sentences: str) -> None:
        """Say what a person should know, each once."""
        for sentence in sentences:
            if sentence not in self.said:
                self.said.add(sentence)
                show_progress("")
                complain(sentence)

    def fail(self, target: str, error: GnelintError) -> None:
        """Say why a target could not be done."""
        from gnelint.output.report import Unread

        self.tell(Unread(target, str(error), traceback.format_exc()))

    def tell(self, unread: Unread) -> None:
        """Say why a target could not be done, for people."""
        self.unread.append(unread)
        show_progress("")
        complain(unread.reason)
        if self.verbose:
            show_trace(unread.trace)
