"""What is to be done with each target: its configuration and the command line, settled before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import cast

from gnelint.errors import UsageError
from gnelint.lint.rulefile import RuleSet
from gnelint.lint.selection import (
    Settings,
    Stage,
    by_id,
    check_params,
    check_selectors,
    selected_rules,
    settings_by_id,
)
from gnelint.lint.suppression import Suppression
from gnelint.readers.inputs import InputSpec
from gnelint.readers.target import Target
from gnelint.records import dataclass
from gnelint.settings.config import Choices, Config, Params, find_config, read_config, together

DIRECTORY = ".gnelint_cache"
"""Where answers are kept, beside the configuration."""


@dataclass(frozen=True)
class Options:
    """The options of the command line that bear on what is said; None and empty mean "not given"."""

    inputs: tuple[InputSpec, ...] = ()
    mode: str | None = None
    select: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    rules: tuple[Path, ...] = ()
    preview: bool = False
    stage: str | None = None
    loss: str | None = None
    fail_on: str | None = None
    baseline: Path | None = None
    config: Path | None = None
    cache: bool = True
    cache_dir: Path | None = None
    max_memory: float | None = None
    timeout: float | None = None
    sampling: bool = True


@dataclass(frozen=True)
class Job:
    """One target with everything that bears on what is said of it: plain data, for a process to take.

    Attributes:
        target: what to read.
        inputs, training: how to read it.
        rules: files and directories of rules beside gnelint's own.
        settings, suppressions: which of them speak.
        cache_dir: where answers are kept, None for nowhere.
        baseline: the file with the findings that are known.
        fail_on: the least severity that counts as a failure.
        silenced: what a configuration keeps from being said, for people; "" for nothing.
        memory, seconds: what checking it may cost in bytes and in computing; None leaves it to the target's size.
        config: the configuration file that holds for it, None for none.
        sampling: whether what no formula describes is run.
        hashed: whether the answer names the hash of the file's bytes, which costs a pass over them.
    """

    target: Target
    inputs: tuple[InputSpec, ...] = ()
    training: bool = True
    rules: tuple[Path, ...] = ()
    settings: Settings = field(default_factory=Settings)
    suppressions: tuple[Suppression, ...] = ()
    cache_dir: Path | None = None
    baseline: Path | None = None
    fail_on: str = "error"
    silenced: str = ""
    memory: float | None = None
    seconds: float | None = None
    config: Path | None = None
    sampling: bool = True
    hashed: bool = True


def plan(targets: Iterable[Target], options: Options, load: Callable[[tuple[Path, ...]], RuleSet]) -> list[Job]:
    """The job of each target.

    Args:
        targets: what to check.
        options: of the command line.
        load: reads the rules, gnelint's own and those of the given paths.

    Raises:
        UsageError: a configuration file is not valid, or it or the command line names rules that do not exist.
        RuleError: a rule file is not valid.
    """
    fixed = read_config(options.config) if options.config else None
    configs: dict[Path, Config] = {}
    checked: set[Path] = set()
    jobs = []
    for target in targets:
        folder = Path.cwd() if target.path is None else target.path.resolve().parent
        if folder not in configs:
            configs[folder] = fixed or _nearest(folder)
        config = configs[folder]
        if config.file is not None and config.file not in checked:
            _check(config, load((*config.rules, *options.rules)))
            checked.add(config.file)
        job = _job(target, config, options)
        loaded = load(job.rules)
        settings = settings_by_id(job.settings, loaded)
        selected_rules(loaded, settings)
        accepted = tuple(replace(each, rules=by_id(each.rules, loaded)) for each in job.suppressions)
        jobs.append(replace(job, settings=settings, suppressions=accepted))
    return jobs


def _nearest(folder: Path) -> Config:
    """The configuration of a target in this folder: one above it, else one above the working directory."""
    found = find_config(folder)
    return find_config(Path.cwd()) if found.file is None else found


def _check(config: Config, rules: RuleSet) -> None:
    """Every rule that a configuration names exists, wherever in the file it stands.

    Raises:
        UsageError: some do not; all of them are told.
    """
    assert config.file is not None
    faults: list[UsageError] = []

    def check(where: str, selectors: Iterable[str], params: Params) -> None:
        for selector in selectors:
            with _kept(faults):
                check_selectors([selector], rules, where)
        for rule, values in params.items():
            for name, value in values.items():
                with _kept(faults):
                    check_params({rule: {name: value}}, rules, where)

    file = str(config.file)
    check(file, (*config.select, *config.extend_select, *config.ignore), config.params)
    for override in config.overrides:
        selectors = (*override.select, *override.extend_select, *override.ignore, *override.never)
        check(f"{file}: {', '.join(override.targets)}", selectors, override.params)
    for index, accepted in enumerate(config.suppress):
        check(f"{file}: suppress[{index}]", accepted.rules, {})
    if faults:
        raise together(faults, config.file)


@contextmanager
def _kept(faults: list[UsageError]) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        faults.append(error)


def _job(target: Target, config: Config, options: Options) -> Job:
    here = [override for override in config.overrides if config.applies(override.targets, target.text)]
    said: list[Choices] = [config, *here]

    def last(name: str, fallback: str) -> str:
        """The command line's choice, else that of the last override, else the file's."""
        given = [getattr(options, name), *(getattr(each, name) for each in reversed(said))]
        return str(next((value for value in given if value is not None), fallback))

    selects = [options.select, *(each.select for each in reversed(said))]
    settings = Settings(
        select=next((select for select in selects if select), ()),
        extend_select=(*(rule for each in said for rule in each.extend_select), *options.extend_select),
        ignore=(*(rule for each in said for rule in each.ignore), *options.ignore),
        never=tuple(rule for each in here for rule in each.never),
        preview=options.preview or bool(config.preview),
        stage=cast(Stage, last("stage", "auto")),
        loss=last("loss", "") or None,
        params=_params(said),
    )
    return Job(
        target=target,
        inputs=options.inputs,
        training=last("mode", "train") == "train",
        rules=(*config.rules, *options.rules),
        settings=settings,
        suppressions=_suppressions(config, target.text),
        cache_dir=_cache_dir(config, options),
        baseline=options.baseline or config.baseline,
        fail_on=last("fail_on", "error"),
        silenced=config.silenced(here),
        memory=options.max_memory and options.max_memory * 1e9,
        seconds=options.timeout,
        config=config.file,
        sampling=options.sampling,
    )


def _params(said: Sequence[Choices]) -> dict[str, dict[str, float | str | bool]]:
    found: dict[str, dict[str, float | str | bool]] = {}
    for choices in said:
        for rule, values in choices.params.items():
            found.setdefault(rule, {}).update(values)
    return found


def _suppressions(config: Config, target: str) -> tuple[Suppression, ...]:
    return tuple(
        Suppression(accepted.rules, accepted.nodes, f"{config.file}: suppress[{index}]")
        for index, accepted in enumerate(config.suppress)
        if not accepted.targets or config.applies(accepted.targets, target)
    )


def _cache_dir(config: Config, options: Options) -> Path | None:
    if not options.cache:
        return None
    beside = Path.cwd() if config.file is None else config.file.resolve().parent
    return options.cache_dir or config.cache_dir or beside / DIRECTORY
