"""The Python interface: `gnelint.check(model)` does what `gnelint check` does and gives the numbers back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gnelint.errors import UsageError
from gnelint.lint.engine import Settings, Stage, lint, selected_rules
from gnelint.lint.finding import Finding
from gnelint.lint.rulefile import Rule, RuleSet, load_rules

if TYPE_CHECKING:
    import torch

    from gnelint.graph import Graph
    from gnelint.prediction import Prediction
    from gnelint.readers.inputs import InputSpec


@dataclass(frozen=True)
class CheckResult:
    """What is said of one network.

    Attributes:
        prediction: every predicted number.
        findings: by rule id, then in topological order.
        notes: what the reader saw and which rules were skipped, a sentence each.
    """

    prediction: Prediction
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The entry of this network in the JSON report, schema "gnelint/1"."""
        from gnelint.output.json import target

        return target(self.prediction, self.findings)

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
    params: Mapping[str, Mapping[str, float | str | bool]] | None = None,
) -> CheckResult:
    """Analyse and lint one network without running it.

    Args:
        target: a model file, "package.module:name", "path/file.py:name", or a `torch.nn.Module`.
        example_inputs: for a module: a tuple of what its `forward` takes; only shapes and types matter.
        inputs: for everything else: shapes as the option `--input` takes them ("8,3,32,32").
        mode: "train" for normalisation by batch statistics, "eval" for running ones.
        rules: files and directories of more rules.
        select, extend_select, ignore: ids or prefixes of rules; no `select` stands for all.
        stage: judge the weights as fresh ("init"), as trained, or as they look ("auto").
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
    settings = Settings(tuple(select), tuple(extend_select), tuple(ignore), stage, params or {})
    chosen = selected_rules(loaded, settings)
    graph = _read(target, example_inputs, inputs, training=mode == "train")
    result = check_graph(graph, chosen, settings)
    return CheckResult(result.prediction, result.findings, (*loaded.warnings, *result.notes))


def check_graph(graph: Graph, rules: Sequence[Rule], settings: Settings) -> CheckResult:
    """Analyse and lint a graph that has been read."""
    from gnelint.analysis import analyse

    prediction = analyse(graph)
    result = lint(prediction, rules, settings)
    notes = tuple(dict.fromkeys((*graph.notes, *prediction.notes, *result.skipped)))
    return CheckResult(prediction, result.findings, notes)


def rule_names(rules: RuleSet) -> Mapping[str, str]:
    """The name of each rule, by id."""
    return {rule.id: rule.name for rule in rules.rules}


def _read(target: Any, example_inputs: tuple[Any, ...], inputs: Sequence[str], training: bool) -> Graph:
    if not isinstance(target, (str, Path)):
        from gnelint.readers.torch import read_module  # the caller has a module, so torch is loaded already

        return read_module(target, example_inputs, name=type(target).__name__, training=training)
    from gnelint.readers.inputs import parse_input
    from gnelint.readers.targets import read_target, resolve

    specs: list[InputSpec] = [parse_input(text) for text in inputs]
    found = resolve(str(target))
    if len(found) > 1:
        raise UsageError(str(target), f"names {len(found)} models", "Call check once for each of them.")
    return read_target(found[0], training=training, inputs=specs)
