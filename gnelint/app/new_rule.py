"""What `gnelint rules --new NAME` writes: a rule to start from that holds, and networks for its tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gnelint.errors import UsageError
from gnelint.files import read_text
from gnelint.lint.rulefile import MAX_FILE_SIZE, load_rules

_FAMILY = "LOCAL"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ID = re.compile(rf"^id: *{_FAMILY}([0-9]{{3}})\b", re.MULTILINE)

_RULE = """\
schema: 1
id: {id}                     # capital letters, then three or four digits; one id belongs to one rule
name: {name}
group: activation                # initialization, activation, normalization, residual, network, numerics or coverage
severity: warning                # error, warning or info
stage: any                       # init: judges an untrained network; any: holds for trained weights too
summary: A tanh behind a layer that is too narrow.
pattern: |
  w = linear(x)
  a = tanh(~w)
params:
  least: {{default: 32, help: "width from which on all is well"}}
let:
  width: weight_size(w) / fan_in(w)
when: width < least
message: "{{w.name}} has {{width:.0f}} units before a tanh, at least {{least:.0f}} are wanted."
measured: width
expected: least
fix: {{kind: width, safety: display, title: "use at least {{least:.0f}} units"}}
explain: |
  ## What it checks
  The number of units of a layer with a tanh behind it.

  ## Why it matters
  Say what goes wrong, and by how much.

  ## Example
      nn.Sequential(nn.Linear(16, 16), nn.Tanh())  # bad
      nn.Sequential(nn.Linear(16, 64), nn.Tanh())  # good

  ## What to do
  Say what to change.

  ## When to ignore it
  Say where it is right as it is.
tests:
  - {{model: "{networks}:bad", findings: 1, severity: warning}}
  - {{model: "{networks}:good", findings: 0}}
"""

_NETWORKS = '''\
"""The networks of the rule {name}: one that it must speak of, and one of which it must be silent."""

import torch
from torch import nn


def network(width: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The module, and what its forward takes."""
    return nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, 4)), (torch.randn(8, 16),)


def bad() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Too narrow."""
    return network(16)


def good() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Wide enough."""
    return network(64)
'''


def new_rule(name: str, folder: Path) -> dict[Path, str]:
    """The files of a rule to start from, the rule's own first.

    Args:
        name: of the rule, in lower case with hyphens.
        folder: where they go; the rule's id is the next of those that stand there.

    Raises:
        UsageError: the name is none, or taken by a rule of gnelint's, or there is such a file.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(name, "is no name of a rule", "Write lower case with hyphens, as in narrow-tanh.")
    known = load_rules().get(name)
    if known is not None:
        raise UsageError(name, f"is the name of {known.id}", f"Read it: gnelint rule {known.id}")
    rule, networks = folder / f"{name}.yaml", folder / f"{name.replace('-', '_')}_networks.py"
    for path in (rule, networks):
        if os.path.lexists(path):
            raise UsageError(path.name, "is here already", "Choose another name.")
    text = _RULE.format(id=_next_id(folder), name=name, networks=networks.name)
    return {rule: text, networks: _NETWORKS.format(name=name)}


def _next_id(folder: Path) -> str:
    """The first id of a folder's own rules that none of its files has."""
    taken = [0]
    for file in folder.glob("*.y*ml"):
        try:
            taken += map(int, _ID.findall(read_text(file, MAX_FILE_SIZE)))
        except (OSError, UnicodeDecodeError):  # no rule file
            continue
    return f"{_FAMILY}{max(taken) + 1:03d}"
