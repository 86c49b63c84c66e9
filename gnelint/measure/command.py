"""What `gnelint verify` and `gnelint.verify` have in common: from what a user gave to a verification."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnelint.errors import UsageError
from gnelint.measure.data import Batch, batches, fitted, read_arrays
from gnelint.measure.distributed import local_device, team
from gnelint.measure.measuring import Probing
from gnelint.measure.opening import Source, device_named, loaded_module
from gnelint.measure.program import Program, RunSettings
from gnelint.measure.verify import DataSource, Plan, Verification, verify_source
from gnelint.readers.inputs import InputSpec
from gnelint.readers.target import resolve
from gnelint.readers.torch.arguments import arguments_of_module
from gnelint.readers.torch.target import load_object
from gnelint.records import dataclass

DTYPES = ("float32", "float64", "bfloat16")
TARGET_ARRAY = "target"
"""Name of the array of a `.npz` file that holds what to train on."""


@dataclass(frozen=True)
class Options:
    """The options of `verify`, as `gnelint.api.verify` describes them."""

    mode: str = "train"
    relative_error: float = 0.05
    probes: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    tolerance: float = 0.5
    train: int = 0

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageError: an option is out of its range.
        """
        if self.mode not in ("train", "eval"):
            raise UsageError("--mode", f"{self.mode!r} is neither train nor eval")
        if not 0.0 < self.relative_error < 1.0:
            raise UsageError("--rel-error", f"{self.relative_error} is not between 0 and 1", "0.05 is 5%.")
        if self.probes is not None and self.probes < 2:
            raise UsageError("--probes", f"{self.probes} cannot give an interval", "Send at least 2.")
        if self.dtype not in DTYPES:
            raise UsageError("--dtype", f"{self.dtype!r} is none of {', '.join(DTYPES)}")
        if not self.tolerance >= 0.0:
            raise UsageError("--tolerance", f"{self.tolerance} is negative")
        if self.train < 0:
            raise UsageError("--train", f"{self.train} steps cannot be taken")


@dataclass(frozen=True)
class Given:
    """What comes with the networks.

    Attributes:
        args: what the `forward` of modules takes, in any form; () for what they say themselves.
        kwargs: what it takes by name.
        inputs: shapes as `--input` gives them.
        weights: a checkpoint that is laid over Python targets, None for their own weights.
    """

    args: Any = ()
    kwargs: Mapping[str, Any] | None = None
    inputs: Sequence[InputSpec] = ()
    weights: Path | None = None


def verify_targets(
    targets: Sequence[Any], given: Given, data: Any, options: Options, progress: Callable[[str], None]
) -> Verification:
    """Verify one network, or one and its correction.

    Raises:
        ModelError: a model cannot be read or run.
        UsageError: the arguments make no sense.
    """
    options.check()
    device = local_device(device_named(options.device))
    plan = Plan(
        RunSettings(device, getattr(torch, options.dtype)),
        Probing(options.relative_error, options.probes, options.seed),
        options.tolerance,
        _data(data),
        options.train,
    )
    sources = [_source(target, given, options.mode == "train") for target in targets]
    with team(device) as workers:
        found = [
            verify_source(source, plan, workers, lambda text, name=source.name: progress(f"{name}: {text}"))  # type: ignore[misc]
            for source in sources
        ]
    return Verification(found[0], found[1] if len(found) > 1 else None)


def _source(target: Any, given: Given, training: bool) -> Source:
    if isinstance(target, torch.nn.Module):
        name = type(target).__name__
        fed = arguments_of_module(target, given.args, given.inputs, name, given.kwargs)
        return Source(name, training, loaded=loaded_module(target, fed.args, fed.kwargs, name))
    found = resolve(str(target))
    if len(found) > 1:
        raise UsageError(str(target), f"names {len(found)} models", "Verify them one by one.")
    if given.weights is not None and found[0].kind == "python":
        found = (replace(found[0], weights=given.weights),)
    return Source(found[0].text, training, tuple(given.inputs), target=found[0])


def _data(data: Any) -> DataSource | None:
    if data is None:
        return None
    if isinstance(data, (str, Path)) and not _is_function(str(data)):
        return _from_file(Path(data))
    source = _function(str(data)) if isinstance(data, (str, Path)) else data
    return lambda program: ((batch, None) for batch in batches(source, program, "--data"))


def _is_function(text: str) -> bool:
    return ":" in text and not Path(text).exists()


def _function(text: str) -> Callable[[], Any]:
    found: Callable[[], Any] = load_object(resolve(text)[0])
    if not callable(found):
        raise UsageError(f"--data {text}", "is no function", "Point at a function that returns batches.")
    return found


def _from_file(path: Path) -> DataSource:
    """The one batch of a file, again and again, with its targets if it has any."""

    def read(program: Program) -> Iterator[tuple[Batch, Tensor | None]]:
        subject = f"--data {path}"
        arrays = read_arrays(path)
        targets = arrays.pop(TARGET_ARRAY, None) if TARGET_ARRAY not in program.graph.inputs else None
        batch = fitted(arrays, program, subject)
        size = next(iter(batch.values())).shape[:1]
        wanted = None if targets is None else torch.from_numpy(np.ascontiguousarray(targets))[: size[0] if size else 1]
        while True:
            yield batch, wanted

    return read
