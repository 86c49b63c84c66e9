"""What `fix` does with one target, plain data in and out: for a process of its own to be handed, and to hand back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnelint.app.batch import rules_of
from gnelint.fixes import FixOptions
from gnelint.fixes.planning import FixRequest
from gnelint.lint.selection import selected_rules
from gnelint.lint.severity import reaches
from gnelint.output import fix_json
from gnelint.records import dataclass
from gnelint.settings.jobs import Job
from gnelint.writers import rewriting


@dataclass(frozen=True)
class Wanted:
    """How targets are to be fixed.

    Attributes:
        write: whether a model is written at all.
        output, directory, in_place, overwrite: where to, as `rewriting.output_of` has them.
        unsafe: make edits behind which the model must be trained again, too.
        options: of the edits.
        inline: write new normalisations as plain nodes.
        measuring: what is written is measured before; None for not.
        page: measure what is written beside what is predicted of it, for a page.
        init: write code that initialises a fresh model as the fixes would have it.
    """

    write: bool = True
    output: Path | None = None
    directory: Path | None = None
    in_place: bool = False
    overwrite: bool = False
    unsafe: bool = False
    options: FixOptions = FixOptions()
    inline: bool = False
    measuring: rewriting.Measuring | None = None
    page: bool = False
    init: bool = False

    @property
    def seconds(self) -> float | None:
        """What measuring may take."""
        return None if self.measuring is None else self.measuring.seconds


@dataclass(frozen=True)
class Fixed:
    """What became of one target.

    Attributes:
        entry: of the JSON that `fix` is shown from.
        fails: whether what is left counts as a failure.
        code: the file that initialises a fresh model; None if it was not asked for, or the fixes made it worse.
        page: the report of what was measured, None if it was not asked for or there is nothing to measure.
    """

    entry: Mapping[str, Any]
    fails: bool
    code: str | None
    page: Mapping[str, Any] | None


def fixed(wanted: Wanted, job: Job) -> Fixed:
    """Fix one target.

    Raises:
        GnelintError: the target cannot be read, the output not be written, or what must be measured cannot be.
    """
    rules = selected_rules(rules_of(job.rules), job.settings)
    places = (wanted.output, wanted.directory)
    to = rewriting.output_of(job.target, *places, wanted.in_place, overwrite=wanted.overwrite) if wanted.write else None
    request = FixRequest(rules, job.settings, job.suppressions, wanted.options, wanted.unsafe)
    subject = rewriting.subject_of(job, wanted.inline)
    done = rewriting.rewrite(subject, request, to, measuring=wanted.measuring, verify=wanted.page)
    fails = done.worse or any(reaches(finding.severity, job.fail_on) for finding in done.remaining)
    code = rewriting.init_code(done) if wanted.init and not done.worse else None
    return Fixed(fix_json.entry(done), fails, code, fix_json.measured(done, rules))
