"""All rules, preview ones too, over a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

import gnelint
from gnelint.lint.finding import Finding


def drawn(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network with its weights drawn from `seed`; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def findings_of(build: Callable[[], nn.Module], inputs: tuple[Tensor, ...], mode: str = "train") -> tuple[Finding, ...]:
    """What all rules say of it."""
    return gnelint.check(drawn(build), inputs, mode=mode, preview=True).findings  # type: ignore[arg-type]


def errors(findings: Iterable[Finding]) -> list[str]:
    """Those of severity error, a line each."""
    return [
        f"{found.rule} {', '.join(found.nodes[:3])}: {found.message}" for found in findings if found.severity == "error"
    ]
