"""Code that fixes emit, put into a user's file."""

from __future__ import annotations

import pytest

from gnelint.server.insertion import insertion

CODE = '''\
"""Initialisation of net, written by gnelint."""

import math

import torch
from torch import nn


@torch.no_grad()
def init_weights(model: nn.Module) -> None:
    """Draw."""
    print(math.pi)


# To be changed in the model's class:
# GNE302  a norm
'''
FUNCTION = CODE[CODE.index("@torch") :]


def inserted(source: str) -> str:
    lines = source.splitlines(keepends=True)
    for edit in reversed(insertion(source, CODE)):
        lines[edit.start : edit.end] = [edit.text]
    return "".join(lines)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("", "import math\nimport torch\nfrom torch import nn\n\n\n" + FUNCTION),
        (
            '"""Doc."""\nimport torch.nn as nn\nx = 1',
            '"""Doc."""\nimport torch.nn as nn\nimport math\nimport torch\nx = 1\n\n\n' + FUNCTION,
        ),
        (
            '"""Doc."""\nx = 1\n',
            '"""Doc."""\nimport math\nimport torch\nfrom torch import nn\nx = 1\n\n\n' + FUNCTION,
        ),
        (
            "import math, torch\nfrom torch import (\n  nn\n)\n@torch.no_grad()\ndef init_weights(m):\n    0\ny = 2\n",
            "import math, torch\nfrom torch import (\n  nn\n)\n" + FUNCTION + "y = 2\n",
        ),
    ],
)
def test_the_function_and_what_it_imports(source: str, wanted: str) -> None:
    assert inserted(source) == wanted


def test_a_file_that_is_not_python_is_refused() -> None:
    with pytest.raises(SyntaxError):
        insertion("def broken(:\n", CODE)


def test_a_function_that_does_nothing_is_not_inserted() -> None:
    assert insertion("x = 1\n", 'def init_weights(model):\n    """Change nothing."""\n') == []
