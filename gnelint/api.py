"""The Python interface: `gnelint.check`, `fix` and `verify` do what the commands do; `monitor` watches training."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gnelint.app.checking import Analysis, check_graph
from gnelint.app.sampling import sampler_of
from gnelint.errors import GnelintError, ModelError, UsageError
from gnelint.lint.engine import lint_and_suppress
from gnelint.lint.finding import Finding
from gnelint.lint.losses import LOSSES
from gnelint.lint.rulefile import Rule, RuleSet, load_rules
from gnelint.lint.selection import (
    Settings,
    Stage,
    selected_rules,
    settings_by_id,
    unselected_rules,
    without_effect,
)
from gnelint.lint.suppression import unused
from gnelint.readers.reading import Read, open_target
from gnelint.records import dataclass

if TYPE_CHECKING:
    import torch

    from gnelint.fixes import FixOptions
    from gnelint.fixes.edits import Edit
    from gnelint.fixes.planning import FixOutcome
    from gnelint.measure.monitor import Monitor
    from gnelint.measure.trials import Tried
    from gnelint.measure.verify import Verification
    from gnelint.readers.inputs import InputSpec
    from gnelint.readers.torch.reader import Traced
    from gnelint.writers.base import Unmade


def check(
    target: str | Path | torch.nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    inputs: str | Sequence[str] = (),
    mode: Literal["train", "eval"] = "train",
    rules: Sequence[str | Path] = (),
    select: Sequence[str] = (),
    extend_select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    stage: Stage = "auto",
    loss: str | None = None,
    preview: bool = False,
    params: Mapping[str, Mapping[str, float | str | bool]] | None = None,
    sampling: bool = True,
    timeout: float | None = None,
    max_memory: float | None = None,
) -> Analysis:
    """Analyse and lint one network without running it. Configuration files are the command line's; none is read.

    Args:
        target: a model file, "package.module:name", "path/file.py:name", or a `torch.nn.Module`.
        example_inputs: for a module: what its `forward` takes, a tuple if it is more than one, a mapping of keywords,
            arrays of numpy; what a module says itself need not be given. Only shapes and types matter.
        example_kwargs: for a module: what its `forward` takes by name.
        inputs: shapes as the option `--input` takes them ("8,3,32,32"), one or several.
        mode: "train" for normalisation by batch statistics, "eval" for running ones.
        rules: files and directories of more rules.
        select, extend_select, ignore: ids or prefixes of rules; no `select` stands for all.
        stage: judge the weights as fresh ("init"), as trained, or as they look ("auto").
        loss: what stands behind the output: "cross_entropy", "nll", "bce", "bce_with_logits", "mse" or "l1".
        preview: run rules that are not yet stable as well.
        params: values for the parameters of rules, by rule id.
        sampling: run what no formula describes on draws of its inputs, if PyTorch is there.
        timeout, max_memory: seconds of computing and gigabytes that this may take beside what the process has; None
            for no end. A command line holds files of strangers to both, in a process of their own: where a library
            ends the process, this one goes with it.

    Raises:
        ModelError: the model cannot be read, or takes more than it may.
        RuleError: a rule file is not valid.
        UsageError: the arguments make no sense, or the target names several models.
    """
    if mode not in ("train", "eval"):
        raise UsageError("mode", f"{mode!r} is neither train nor eval")
    if stage not in ("auto", "init", "trained"):
        raise UsageError("stage", f"{stage!r} is none of auto, init and trained")
    if loss is not None and loss not in LOSSES:
        raise UsageError("loss", f"{loss!r} is none of {', '.join(LOSSES)}")
    loaded = load_rules([Path(path) for path in rules])
    settings = replace(_settings(loaded, select, extend_select, ignore, preview, stage, params), loss=loss)
    chosen = selected_rules(loaded, settings)
    with _bounded(target, timeout, max_memory):
        read = _read(target, example_inputs, example_kwargs, inputs, training=mode == "train")
        sampler = sampler_of(read) if sampling else None
        others = unselected_rules(loaded, settings)
        result = check_graph(read.graph, chosen, settings, others=others, sampler=sampler)
    more = (*loaded.warnings, *without_effect(loaded, settings), *unused(result.verdicts, loaded))
    return replace(result, notes=(*more, *result.notes))


@contextmanager
def _bounded(target: Any, seconds: float | None, gigabytes: float | None) -> Generator[None, None, None]:
    """What is done with a target meanwhile, held to a budget if there is one."""
    if seconds is None and gigabytes is None:
        yield
        return
    from gnelint.budget import Budget, SpentError, ran_out, too_much_memory, within

    if threading.current_thread() is not threading.main_thread():
        raise UsageError("timeout", "holds in the main thread only", "Call check there, or run `gnelint check`.")
    name = str(target) if isinstance(target, (str, Path)) else type(target).__name__
    try:
        with within(Budget(math.inf if gigabytes is None else gigabytes * 1e9, seconds or math.inf)):
            try:
                yield
            except (MemoryError, OSError, ImportError, RuntimeError, SystemError) as error:
                if not (isinstance(error, MemoryError) or ran_out(error)):
                    raise
                problem, _ = too_much_memory()
                raise ModelError(name, problem, "Check the sizes in it, or allow more by max_memory.") from error
    except SpentError:
        problem = f"takes more than the {seconds:.3g} s of computing that it may have"
        raise ModelError(name, problem, "Allow more by timeout.") from None


def _settings(
    rules: RuleSet,
    select: Iterable[str],
    extend_select: Iterable[str],
    ignore: Iterable[str],
    preview: bool,
    stage: Stage,
    params: Mapping[str, Mapping[str, float | str | bool]] | None,
) -> Settings:
    given = Settings(tuple(select), tuple(extend_select), tuple(ignore), (), preview, stage, params or {})
    return settings_by_id(given, rules)


@dataclass(frozen=True)
class VerifyResult:
    """What was measured of one network, or of one before and after it was fixed.

    Attributes:
        verification: predictions, measurements and what became of each claim.
        findings, fixed_findings: of the check of either network.
        rules: those that were run.
    """

    verification: Verification
    findings: tuple[Finding, ...]
    fixed_findings: tuple[Finding, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every prediction agrees with what was measured, and the fixed network is no worse."""
        return self.verification.holds

    def to_dict(self) -> dict[str, Any]:
        """The JSON report, schema "gnelint/1" with `measured` and `interval` beside each predicted number."""
        from gnelint.output.verify_json import document

        return document(self.verification, self.findings, self.fixed_findings, self.rules)

    def __str__(self) -> str:
        """The report for people."""
        from gnelint.output.text import Style
        from gnelint.output.verify_text import render

        return render(self.to_dict(), Style())


def verify(
    target: str | Path | torch.nn.Module,
    fixed: str | Path | torch.nn.Module | None = None,
    example_inputs: Any = (),
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    inputs: Sequence[str] = (),
    weights: str | Path | None = None,
    mode: Literal["train", "eval"] = "train",
    data: str | Path | Callable[[], Any] | Any = None,
    relative_error: float = 0.05,
    probes: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    tolerance: float = 0.5,
    train: int = 0,
    progress: Callable[[str], None] | None = None,
) -> VerifyResult:
    """Measure with autograd what `check` predicts.

    Args:
        target: a model file, "package.module:name", "path/file.py:name", or a `torch.nn.Module`.
        fixed: another one that is to be better.
        example_inputs, example_kwargs: for modules: what their `forward` takes, as in `check`.
        inputs: shapes as the option `--input` takes them ("8,3,32,32").
        weights: for Python targets: a checkpoint that is laid over them, as `--weights` does.
        mode: "train" for normalisation by batch statistics, "eval" for running ones.
        data: what to run on: a `.npz` file (an array for each input; one named "target" is what to train on), a
            function that returns batches, or a batch. None draws what the analysis assumes: N(0, 1).
        relative_error: send probes until every block's 95% interval is this fraction of its phi on either side.
        probes: send exactly so many.
        seed: of data and probes: the same seed gives the same numbers, bit for bit on a CPU.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: "float32", "float64" or "bfloat16": the type that takes float32's place.
        tolerance: bits by which a prediction may lie outside the interval.
        train: steps of training to take, watching each layer's gradient.
        progress: is told what is being done.

    Raises:
        ModelError: the model cannot be read or run ("not verifiable: ...").
        UsageError: the arguments make no sense, or the target names several models.
    """
    from gnelint.measure.command import Given, Options, verify_targets

    options = Options(mode, relative_error, probes, seed, device, dtype, tolerance, train)
    given = Given(example_inputs, example_kwargs, _specs(inputs), None if weights is None else Path(weights))
    targets = [target] if fixed is None else [target, fixed]
    verification = verify_targets(targets, given, data, options, progress or _silent)
    rules = selected_rules(load_rules(), Settings())
    networks = [verification.target] if verification.fixed is None else [verification.target, verification.fixed]
    linted = [lint_and_suppress(network.prediction, rules, Settings()) for network in networks]
    ran = tuple(rule for rule in rules if any(rule.id in result.ran for result, _ in linted))
    return VerifyResult(verification, linted[0][1].findings, linted[1][1].findings if fixed is not None else (), ran)


@dataclass(frozen=True)
class FixPlan:
    """What `gnelint fix` would do to one module. It is a plan: only `measured` runs anything.

    Attributes:
        plan: the edits, the predictions and findings before and after them, and what is left.
        module: the module, as it is.
        example_inputs, example_kwargs: what its `forward` takes.
        traced: what was read of it.
        tried: what measuring took back of a plan, and what it found; None where nothing was measured.
    """

    plan: FixOutcome
    module: torch.nn.Module
    example_inputs: tuple[Any, ...] = ()
    example_kwargs: Mapping[str, Any] = field(default_factory=dict)
    traced: Traced | None = None
    tried: Tried | None = None

    @property
    def edits(self) -> tuple[Edit, ...]:
        """In the order in which they are made."""
        return self.plan.edits

    def measured(self, *, seconds: float = 60.0, seed: int = 0) -> FixPlan:
        """The plan without what measures worse: a copy of the module and a fixed one are run on the same inputs.

        A fix is taken back, kind by kind, if with it a parameter loses its gradient, a gradient becomes infinite, the
        gradient's norms along the depth become less equal or the output leaves its range; or, where all edits promise
        the same function, if the output changes. `tried` of what is returned says what was taken back and why.

        Args:
            seconds: allowed for measuring; what takes longer is not measured, and nothing is taken back.
            seed: of inputs and probes.
        """
        from gnelint.fixes.planning import plan_fixes as plan
        from gnelint.fixes.planning import same_program
        from gnelint.measure.opening import Source, loaded_module
        from gnelint.measure.trial import Bench, Trial
        from gnelint.measure.trials import tried
        from gnelint.writers.torch.module import fixed_module

        graph = self.plan.before.graph
        loaded = loaded_module(self.module, self.example_inputs, self.example_kwargs, type(self.module).__name__)
        source = Source(loaded.name, graph.training, loaded=loaded, traced=self.traced)
        bench = Bench(source, self.plan.before, seconds, seed)

        def measure(planned: FixOutcome) -> Trial:
            fixed, _ = fixed_module(self.module, planned.edits, graph)
            copy = source.with_module(fixed, same_program=same_program(planned.edits))
            return bench.measure(copy, same=planned.same_function)

        found = tried(self.plan, lambda wishes: plan(graph, wishes), measure)
        return replace(self, plan=found.plan, tried=found)

    def apply(self) -> tuple[torch.nn.Module, tuple[Unmade, ...]]:
        """A fixed copy of the module, and the edits that could not be made; nothing is measured."""
        from gnelint.writers.torch.module import fixed_module

        return fixed_module(self.module, self.plan.edits, self.plan.before.graph)

    def init_code(self) -> str:
        """A Python file with a function that initialises a fresh module as the fixes would have it."""
        from gnelint.writers.init_code import init_code

        return init_code(self.plan.edits, self.plan.before, self.plan.after)

    def __str__(self) -> str:
        """The edits for people, as `gnelint fix --diff` shows them."""
        from gnelint.output.fix_json import entry
        from gnelint.output.fix_text import render
        from gnelint.writers.rewriting import Rewritten

        plan = self.plan
        done = Rewritten(plan.before.graph.name, plan, (), None, plan.after, plan.remaining, self.tried)
        names = {rule.id: rule.name for rule in load_rules().rules}
        return render(entry(done), names, whole=False, dry=True)


def plan_fixes(
    module: torch.nn.Module,
    example_inputs: Any = (),
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    mode: Literal["train", "eval"] = "train",
    rules: Sequence[str | Path] = (),
    select: Sequence[str] = (),
    extend_select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    stage: Stage = "auto",
    preview: bool = False,
    params: Mapping[str, Mapping[str, float | str | bool]] | None = None,
    unsafe: bool = False,
    options: FixOptions | None = None,
) -> FixPlan:
    """Plan what puts the findings of a module right; the module is left as it is.

    Args:
        module: the network.
        example_inputs, example_kwargs: what its `forward` takes, as in `check`; only shapes and types matter.
        mode, rules, select, extend_select, ignore, stage, preview, params: as in `check`.
        unsafe: plan fixes as well after which the network must be trained again.
        options: how weights are drawn and scaled.

    Raises:
        ModelError: the module cannot be traced.
        RuleError: a rule file is not valid.
        UsageError: the arguments make no sense.
    """
    from gnelint.fixes import FixOptions
    from gnelint.fixes.planning import FixRequest
    from gnelint.fixes.planning import plan_fixes as plan
    from gnelint.readers.torch.arguments import arguments_of_module
    from gnelint.readers.torch.reader import trace_module

    loaded = load_rules([Path(path) for path in rules])
    settings = _settings(loaded, select, extend_select, ignore, preview, stage, params)
    chosen = selected_rules(loaded, settings)
    name = type(module).__name__
    given = arguments_of_module(module, example_inputs, (), name, example_kwargs)
    traced = trace_module(
        module, given.args, name=name, training=mode == "train", example_kwargs=given.kwargs, notes=given.notes
    )
    planned = plan(traced.graph, FixRequest(chosen, settings, (), options or FixOptions(), unsafe))
    return FixPlan(planned, module, given.args, given.kwargs, traced)


def fix(
    module: torch.nn.Module,
    example_inputs: Any = (),
    *,
    verify: bool = True,
    verify_seconds: float = 60.0,
    **options: Any,
) -> torch.nn.Module:
    """A fixed copy of a module: of the same class where only parameters change, else with other submodules.

    Args:
        module: left as it is.
        example_inputs: what its `forward` takes; `example_kwargs` among the options by name.
        verify: measure copies of the module before and after, and leave out what is worse; a warning says what was,
            or why nothing could be measured.
        verify_seconds: allowed for measuring.
        options: those of `plan_fixes`, which also tells what would be done and what could not be.

    Raises:
        ModelError, RuleError, UsageError: as in `plan_fixes`.
    """
    plan = plan_fixes(module, example_inputs, **options)
    if verify:
        plan = plan.measured(seconds=verify_seconds)
        assert plan.tried is not None
        for back in plan.tried.taken_back:
            warnings.warn(f"taken back: {back.text}", stacklevel=2)
        if plan.tried.unmeasured is not None:
            warnings.warn(f"not measured: {plan.tried.unmeasured}", stacklevel=2)
    fixed, _ = plan.apply()
    return fixed


def monitor(
    module: torch.nn.Module,
    example_inputs: Any = None,
    *,
    every: int = 100,
    logger: Any = None,
    **options: Any,
) -> Monitor:
    """Watch the gradient's norm along the depth while a module trains, beside what is predicted of its start.

        with gnelint.monitor(model, logger=SummaryWriter()):
            train(model)

    Passes in training mode with gradients count as steps; the first and then one in `every` is measured. A
    `GradientNormWarning` tells of gradients that vanish, explode, stop or are no numbers, in which blocks, and which
    rule says why. Hooks stand on the module only for passes that are measured, and it is not changed.

    Args:
        module: a module, also one in `DistributedDataParallel`.
        example_inputs: what its `forward` takes; None takes that of the first pass.
        every: steps from one measurement to the next.
        logger: where the norms are written: a TensorBoard `SummaryWriter`, a W&B run, a Lightning logger, or a function
            of a mapping and a step.
        options: of `check`.

    Raises:
        UsageError: the arguments make no sense.
        ModelError: the module is scripted, and takes no hooks.
    """
    from gnelint.measure.loggers import writing
    from gnelint.measure.monitor import Monitor, Plan, hookable, unwrapped
    from gnelint.measure.places import plan_of
    from gnelint.readers.torch.target import refuse_untraceable

    if every < 1:
        raise UsageError("every", f"{every} steps", "Give 1 or more.")
    watched = unwrapped(module)
    refuse_untraceable(watched, type(watched).__name__)

    def planned(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Plan:
        try:
            if example_inputs is None:
                found = check(watched, args, example_kwargs=kwargs, **options)
            else:
                found = check(watched, example_inputs, **options)
        except GnelintError as error:
            return Plan((), problem=f"the gradient is not monitored: {error}")
        names = {rule.id: rule.name for rule in found.rules}
        return plan_of(found.prediction, found.findings, hookable(watched), names)

    return Monitor(watched, planned, every=every, log=writing(logger))


def _silent(text: str) -> None:
    """Progress that nobody watches."""


def _specs(inputs: str | Sequence[str]) -> list[InputSpec]:
    from gnelint.readers.inputs import parse_input

    return [parse_input(text) for text in ([inputs] if isinstance(inputs, str) else inputs)]


def _read(
    target: Any,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    inputs: str | Sequence[str],
    training: bool,
) -> Read:
    if not isinstance(target, (str, Path)):
        from gnelint.readers.torch.arguments import (
            arguments_of_module,  # the caller has a module, so torch is loaded already
        )
        from gnelint.readers.torch.reader import trace_module
        from gnelint.readers.torch.target import refuse_untraceable
        from gnelint.readers.torch.wrapped import forwarding

        name = type(target).__name__
        refuse_untraceable(target, name)
        module, said = forwarding(target, name)
        given = arguments_of_module(module, example_inputs, _specs(inputs), name, example_kwargs)
        notes = (*said, *given.notes)
        traced = trace_module(
            module, given.args, name=name, training=training, example_kwargs=given.kwargs, notes=notes
        )
        return Read(traced.graph, traced=traced)
    from gnelint.readers.target import resolve

    found = resolve(str(target))
    if len(found) > 1:
        raise UsageError(str(target), f"names {len(found)} models", "Call check once for each of them.")
    return open_target(found[0], training=training, inputs=_specs(inputs))
