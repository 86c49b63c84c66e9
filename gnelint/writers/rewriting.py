"""One target fixed: read, planned, written, and read again to say what became of it.

What is reported is what the written model shows, not what was planned: a writer may not be able to make an edit, and
numbers are rounded to the model's own type.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gnelint.analysis.prediction import Prediction
from gnelint.analysis.propagation import analyse
from gnelint.budget import at
from gnelint.errors import ModelError, UnmeasuredError, UsageError
from gnelint.fixes.base import Refusal
from gnelint.fixes.edits import Edit
from gnelint.fixes.planning import FixOutcome, FixRequest, plan_fixes, same_program
from gnelint.ir.graph import Graph
from gnelint.lint.finding import Finding
from gnelint.measure.trials import NO_TORCH, SECONDS, Tried, has_torch, tried
from gnelint.readers.reading import require_torch
from gnelint.readers.target import Target, resolve
from gnelint.records import cached_property, dataclass
from gnelint.settings.jobs import Job
from gnelint.writers.base import Unmade, all_unmade

if TYPE_CHECKING:
    from gnelint.measure.opening import Source
    from gnelint.measure.trial import Trial
    from gnelint.measure.verify import Verification
    from gnelint.readers.torch.reader import Traced
    from gnelint.readers.torch.target import Loaded


@dataclass(frozen=True)
class Rewritten:
    """What was done to one target.

    Attributes:
        target: its name.
        plan: what was planned; its `after` and `left` are of the graph.
        unmade: planned edits that the writer could not make.
        output: the file that was written, None if none was.
        after, remaining: the prediction and the findings of what was written; the plan's where nothing was.
        tried: what measuring took back of the plan, and what it found; None where nothing was to be measured.
        verification: both models measured beside what is predicted, None unless it was asked for.
    """

    target: str
    plan: FixOutcome
    unmade: tuple[Unmade, ...]
    output: Path | None
    after: Prediction
    remaining: tuple[Finding, ...]
    tried: Tried | None = None
    verification: Verification | None = None

    @property
    def worse(self) -> bool | None:
        """Whether nothing is done since all that was planned measured worse; None if it was not measured."""
        return None if self.tried is None else self.tried.worse

    @property
    def made(self) -> tuple[Edit, ...]:
        """The edits that were made, or would be."""
        failed = {id(unmade.edit) for unmade in self.unmade}
        return tuple(edit for edit in self.plan.edits if id(edit) not in failed)

    @property
    def left(self) -> tuple[Refusal, ...]:
        """The findings that remain and why."""
        known = {refusal.finding.place: refusal for refusal in self.plan.left}
        failed = {(unmade.edit.rule, unmade.edit.nodes): unmade.reason for unmade in self.unmade}
        before = {finding.place for finding in self.plan.found}
        found = []
        for finding in self.remaining:
            why = "what would end it could not be done" if finding.place in before else "it is new in the fixed model"
            new = Refusal(finding, failed.get(finding.place, why))
            found.append(replace(known.get(finding.place, new), finding=finding))
        return tuple(found)


class Subject(ABC):
    """A target that can be read, edited and read again."""

    @cached_property
    def graph(self) -> Graph:
        """The graph of the target as it is, read once."""
        return self._target()

    @abstractmethod
    def _target(self) -> Graph:
        """Read the target."""

    @abstractmethod
    def write(self, edits: Sequence[Edit], output: Path) -> tuple[Unmade, ...]:
        """Write the edited target; nothing half-written stays under the name, and nothing at all without an edit made.

        Raises:
            GnelintError: it cannot be written.
        """

    @abstractmethod
    def read(self, output: Path) -> Graph:
        """The graph of what was written."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """What is run to measure the target as it is."""

    @abstractmethod
    def fixed(self, edits: Sequence[Edit], folder: Path) -> Source:
        """What is run to measure the edited target.

        Args:
            edits: to be made.
            folder: where files may be written meanwhile.

        Raises:
            GnelintError: the edited target cannot be made.
        """

    @abstractmethod
    def verified(self, fixed: Path) -> Verification:
        """What is predicted of the target and of the written model, with what is measured beside it.

        Raises:
            GnelintError: one of them cannot be run.
        """

    @property
    @abstractmethod
    def suffix(self) -> str:
        """Of the files that are written."""


class OnnxSubject(Subject):
    """An ONNX file.

    Args:
        job: its target and how to read it.
        inline: write second moment normalisations as plain nodes instead of calls of a function.
    """

    suffix = ".onnx"

    def __init__(self, job: Job, inline: bool) -> None:
        assert job.target.path is not None
        self._job, self._path, self._inline = job, job.target.path, inline

    def _target(self) -> Graph:
        return self.read(self._path)

    def write(self, edits: Sequence[Edit], output: Path) -> tuple[Unmade, ...]:
        from gnelint.writers.onnx.writer import write_onnx

        return write_onnx(self._path, edits, output, graph=self.graph, inline=self._inline)

    def read(self, output: Path) -> Graph:
        from gnelint.readers.onnx.reader import read

        return read(output, training=self._job.training, inputs=self._job.inputs)

    @property
    def source(self) -> Source:
        return _source(self._job)

    def fixed(self, edits: Sequence[Edit], folder: Path) -> Source:
        return _written(self, edits, folder, self._job)

    def verified(self, fixed: Path) -> Verification:
        return _verified(self._path, fixed, self._job)


class TorchSubject(Subject):
    """A module that a Python target names, or an exported program; what is written is an exported program."""

    suffix = ".pt2"

    def __init__(self, job: Job) -> None:
        from gnelint.readers.torch.target import load_python

        self._job = job
        self._loaded: Loaded | None = load_python(job.target, job.inputs) if job.target.kind == "python" else None

    def _target(self) -> Graph:
        if self._loaded is not None:
            return self._traced.graph
        assert self._job.target.path is not None
        return self.read(self._job.target.path)

    def write(self, edits: Sequence[Edit], output: Path) -> tuple[Unmade, ...]:
        from gnelint.writers.torch.writer import fixed_program, fixed_pt2, write_program

        if self._loaded is not None:
            program, unmade = fixed_program(self._loaded, edits, self.graph, training=self._job.training)
        else:
            assert self._job.target.path is not None
            program, unmade = fixed_pt2(self._job.target.path, edits)
        if not all_unmade(edits, unmade):
            write_program(program, output)
        return unmade

    def read(self, output: Path) -> Graph:
        from gnelint.readers.torch.reader import read_pt2

        return read_pt2(output, training=self._job.training, inputs=self._job.inputs)

    @property
    def source(self) -> Source:
        if self._loaded is None:
            return _source(self._job)
        return replace(_source(self._job), loaded=self._loaded, traced=self._traced)

    @cached_property
    def _traced(self) -> Traced:
        """The module as it is, traced once."""
        assert self._loaded is not None
        return self._loaded.trace(training=self._job.training)

    def fixed(self, edits: Sequence[Edit], folder: Path) -> Source:
        from torch.nn import Module

        from gnelint.writers.torch.module import fixed_module

        if self._loaded is None or not isinstance(self._loaded.found, Module):
            return _written(self, edits, folder, self._job)
        module, _ = fixed_module(self._loaded.found, edits, self.graph)
        return self.source.with_module(module, same_program=same_program(edits))

    def verified(self, fixed: Path) -> Verification:
        if self._loaded is None:
            assert self._job.target.path is not None
            return _verified(self._job.target.path, fixed, self._job)
        with tempfile.TemporaryDirectory(prefix="gnelint-") as folder:  # the module as it is, with the weights it has
            before = Path(folder) / "before.pt2"
            self.write((), before)
            return _verified(before, fixed, self._job)


def _source(job: Job) -> Source:
    from gnelint.measure.opening import Source

    return Source(job.target.text, job.training, tuple(job.inputs), target=job.target)


def _written(subject: Subject, edits: Sequence[Edit], folder: Path, job: Job) -> Source:
    """The edited target in a file of its own."""
    file = folder / f"fixed{subject.suffix}"
    if all_unmade(edits, subject.write(edits, file)):
        return subject.source
    return replace(_source(job), target=resolve(str(file))[0])


def _verified(target: Path, fixed: Path, job: Job) -> Verification:
    from gnelint.measure.command import Given, Options, verify_targets

    options = Options(mode="train" if job.training else "eval")
    return verify_targets([str(target), str(fixed)], Given(inputs=job.inputs), None, options, lambda text: None)


def subject_of(job: Job, inline: bool) -> Subject:
    """The target of a job, ready to be read.

    Raises:
        ModelError: it cannot be built.
    """
    require_torch(job.target)
    return OnnxSubject(job, inline) if job.target.kind == "onnx" else TorchSubject(job)


@dataclass(frozen=True)
class Measuring:
    """How fixes are measured before anything is written.

    Attributes:
        seconds: allowed for a target.
        seed: of inputs and probes.
        required: refuse to write what could not be measured.
    """

    seconds: float = SECONDS
    seed: int = 0
    required: bool = False


def rewrite(
    subject: Subject,
    request: FixRequest,
    output: Path | None,
    *,
    measuring: Measuring | None = None,
    verify: bool = False,
) -> Rewritten:
    """Plan the fixes of one target and write the fixed model.

    Args:
        subject: the target, opened.
        request: what may be done.
        output: where to write, None for nowhere; nothing is written where there is nothing to do.
        measuring: measure before anything is written, and do only what is no worse; None does all that is planned.
        verify: measure what is written beside what is predicted of it, too.

    Raises:
        GnelintError: the target cannot be read, the output not be written, or what must be measured cannot be.
    """
    graph = subject.graph
    plan = plan_fixes(graph, request)
    done = None
    if measuring is not None:
        done = _tried(subject, plan, measuring)
        plan = done.plan
    result = Rewritten(graph.name, plan, (), None, plan.after, plan.remaining, done)
    if output is None or not plan.edits:
        return result
    verification = _verification(subject, plan.edits) if verify else None  # while the target is as it was
    unmade = subject.write(plan.edits, output)
    if all_unmade(plan.edits, unmade):
        return replace(result, unmade=unmade, after=plan.before, remaining=plan.found)
    after = analyse(subject.read(output))
    remaining = plan.request.findings(after)
    return replace(result, unmade=unmade, output=output, after=after, remaining=remaining, verification=verification)


def _verification(subject: Subject, edits: Sequence[Edit]) -> Verification:
    with tempfile.TemporaryDirectory(prefix="gnelint-") as folder:
        file = Path(folder) / f"fixed{subject.suffix}"
        subject.write(edits, file)
        return subject.verified(file)


def _tried(subject: Subject, plan: FixOutcome, measuring: Measuring) -> Tried:
    done = _measured(subject, plan, measuring) if has_torch() else Tried(plan, unmeasured=NO_TORCH)
    if measuring.required and plan.edits and done.unmeasured is not None:
        raise UnmeasuredError(
            subject.graph.name, f"cannot be measured: {done.unmeasured}", "Without --verify it is written all the same."
        )
    return done


def _measured(subject: Subject, plan: FixOutcome, measuring: Measuring) -> Tried:
    from gnelint.measure.trial import Bench

    at("measuring the fixes")
    bench = Bench(subject.source, plan.before, measuring.seconds, measuring.seed)

    def measure(planned: FixOutcome) -> Trial:
        with tempfile.TemporaryDirectory(prefix="gnelint-") as folder:
            return bench.measure(subject.fixed(planned.edits, Path(folder)), same=planned.same_function)

    return tried(plan, lambda wishes: plan_fixes(subject.graph, wishes), measure)


def init_code(done: Rewritten) -> str:
    """A Python file with a function that initialises a fresh model as the fixes would have it."""
    from gnelint.writers.init_code import init_code as code

    return code(done.plan.edits, done.plan.before, done.plan.after)


def output_of(
    target: Target, output: Path | None, directory: Path | None, in_place: bool, *, overwrite: bool = False
) -> Path:
    """Where the fixed model of a target goes.

    Raises:
        UsageError: the options do not say, or a file that is only read, or that is there, would be overwritten.
    """
    if in_place:
        if target.path is None or target.kind == "python":
            raise UsageError("--in-place", f"{target.text} is not a model file", "Name a file with -o.")
        return target.path
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        name = target.path.name if target.path is not None and target.kind != "python" else f"{target.attribute}.pt2"
        output = directory / name
    if output is None:
        raise UsageError("fix", "where to?", "Say -o FILE, --in-place, or --diff to write nothing.")
    if target.path is not None and output.exists() and output.samefile(target.path):
        raise UsageError(str(output), "is the model itself", "Say --in-place to overwrite it.")
    wanted = {"onnx": ".onnx"}.get(target.kind, ".pt2")
    if output.suffix != wanted:
        raise UsageError(str(output), f"the fixed model is written as {wanted}", f"Name a file that ends in {wanted}.")
    if output.is_dir():
        raise ModelError(str(output), "is a directory", "Name a file in it, or say --output-dir.")
    if output.exists() and not overwrite:
        raise UsageError(str(output), "is there already", "Name another file, or add --force.")
    return output
