"""The Python interface: `gnelint.check` and `gnelint.verify` do what the commands do and give the numbers back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gnelint.errors import UsageError
from gnelint.lint.engine import LintResult, lint
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import Rule, RuleSet, load_rules
from gnelint.lint.selection import Settings, Stage, selected_rules, without_effect
from gnelint.lint.suppression import Suppressed, Suppression, Verdict, in_model, suppress, unused

if TYPE_CHECKING:
    import torch

    from gnelint.graph import Graph
    from gnelint.measure.verify import Verification
    from gnelint.prediction import Prediction
    from gnelint.readers.inputs import InputSpec


@dataclass(frozen=True)
class CheckResult:
    """What is said of one network.

    Attributes:
        prediction: every predicted number.
        findings: by rule id, then in topological order.
        notes: what the reader saw and which rules were skipped, a sentence each.
        suppressed: number of findings that suppressions left out.
        verdicts: what became of each suppression.
        rules: those that were run.
        settings: what was chosen about them.
        sha256: of the model file's bytes, None where there is no such file.
    """

    prediction: Prediction
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    suppressed: int = 0
    verdicts: tuple[Verdict, ...] = ()
    rules: tuple[Rule, ...] = ()
    settings: Settings = field(default_factory=Settings)
    sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry of this network in the JSON report, schema "gnelint/1"."""
        from gnelint.output.json import Circumstances, target

        ran = tuple(rule.id for rule in self.rules)
        chosen = {
            name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.settings).items()
        }
        made = Circumstances(self.notes, ran, chosen, self.sha256)
        return target(self.prediction, self.findings, self.suppressed, made)

    def __str__(self) -> str:
        """The report for people."""
        from gnelint.output.text import Style, render

        return render(self.to_dict(), rule_names(load_rules()), self.notes, Style())


def check(
    target: str | Path | torch.nn.Module,
    example_inputs: tuple[Any, ...] = (),
    *,
    inputs: Sequence[str] = (),
    mode: Literal["train", "eval"] = "train",
    rules: Sequence[str | Path] = (),
    select: Sequence[str] = (),
    extend_select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    stage: Stage = "auto",
    preview: bool = False,
    params: Mapping[str, Mapping[str, float | str | bool]] | None = None,
) -> CheckResult:
    """Analyse and lint one network without running it. Configuration files are the command line's; none is read.

    Args:
        target: a model file, "package.module:name", "path/file.py:name", or a `torch.nn.Module`.
        example_inputs: for a module: a tuple of what its `forward` takes; only shapes and types matter.
        inputs: for everything else: shapes as the option `--input` takes them ("8,3,32,32").
        mode: "train" for normalisation by batch statistics, "eval" for running ones.
        rules: files and directories of more rules.
        select, extend_select, ignore: ids or prefixes of rules; no `select` stands for all.
        stage: judge the weights as fresh ("init"), as trained, or as they look ("auto").
        preview: run rules that are not yet stable as well.
        params: values for the parameters of rules, by rule id.

    Raises:
        ModelError: the model cannot be read.
        RuleError: a rule file is not valid.
        UsageError: the arguments make no sense, or the target names several models.
    """
    if mode not in ("train", "eval"):
        raise UsageError("mode", f"{mode!r} is neither train nor eval")
    if stage not in ("auto", "init", "trained"):
        raise UsageError("stage", f"{stage!r} is none of auto, init and trained")
    loaded = load_rules([Path(path) for path in rules])
    settings = Settings(
        select=tuple(select),
        extend_select=tuple(extend_select),
        ignore=tuple(ignore),
        preview=preview,
        stage=stage,
        params=params or {},
    )
    chosen = selected_rules(loaded, settings)
    graph = _read(target, example_inputs, inputs, training=mode == "train")
    result = check_graph(graph, chosen, settings)
    more = (*loaded.warnings, *without_effect(loaded, settings), *unused(result.verdicts, loaded))
    return replace(result, notes=(*more, *result.notes))


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
    example_inputs: tuple[Any, ...] = (),
    *,
    inputs: Sequence[str] = (),
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
        example_inputs: for modules: a tuple of what their `forward` takes.
        inputs: for everything else: shapes as the option `--input` takes them ("8,3,32,32").
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
    from gnelint.measure.command import Options, verify_targets

    options = Options(mode, relative_error, probes, seed, device, dtype, tolerance, train)
    specs = _specs(inputs)
    verification = verify_targets(
        [target] if fixed is None else [target, fixed], example_inputs, specs, data, options, progress or _silent
    )
    rules = selected_rules(load_rules(), Settings())
    networks = [verification.target] if verification.fixed is None else [verification.target, verification.fixed]
    linted = [_linted(network.prediction, rules, Settings()) for network in networks]
    ran = tuple(rule for rule in rules if any(rule.id in result.ran for result, _ in linted))
    return VerifyResult(verification, linted[0][1].findings, linted[1][1].findings if fixed is not None else (), ran)


def _silent(text: str) -> None:
    """Progress that nobody watches."""


def _specs(inputs: Sequence[str]) -> list[InputSpec]:
    from gnelint.readers.inputs import parse_input

    return [parse_input(text) for text in inputs]


def check_graph(
    graph: Graph, rules: Sequence[Rule], settings: Settings, suppressions: Sequence[Suppression] = ()
) -> CheckResult:
    """Analyse and lint a graph that has been read; what its file asks to ignore is left out too."""
    from gnelint.analysis import analyse

    prediction = analyse(graph)
    result, left = _linted(prediction, rules, settings, suppressions)
    notes = tuple(dict.fromkeys((*graph.notes, *prediction.notes, *result.skipped)))
    ran = tuple(rule for rule in rules if rule.id in result.ran)
    return CheckResult(prediction, left.findings, notes, left.count, left.verdicts, ran, settings)


def _linted(
    prediction: Prediction, rules: Sequence[Rule], settings: Settings, suppressions: Sequence[Suppression] = ()
) -> tuple[LintResult, Suppressed]:
    """What the rules found, and that without what is suppressed."""
    result = lint(prediction, rules, settings)
    return result, suppress(result.findings, (*suppressions, *in_model(prediction.graph)), result.ran)


def rule_names(rules: RuleSet) -> Mapping[str, str]:
    """The name of each rule, by id."""
    return {rule.id: rule.name for rule in rules.rules}


def _read(target: Any, example_inputs: tuple[Any, ...], inputs: Sequence[str], training: bool) -> Graph:
    if not isinstance(target, (str, Path)):
        from gnelint.readers.torch import read_module  # the caller has a module, so torch is loaded already

        return read_module(target, example_inputs, name=type(target).__name__, training=training)
    from gnelint.readers.targets import read_target, resolve

    found = resolve(str(target))
    if len(found) > 1:
        raise UsageError(str(target), f"names {len(found)} models", "Call check once for each of them.")
    return read_target(found[0], training=training, inputs=_specs(inputs))
