"""Components are looked up in their family's file first: what is found there is what all files together would give."""

from __future__ import annotations

import subprocess
import sys

from gnelint.components import component_class
from gnelint.components.base import _REGISTRY
from gnelint.ops import VOCABULARY


def test_no_file_overrules_the_familys() -> None:
    component_class("no such operation")  # imports every file
    for op, operation in VOCABULARY.items():
        by_kind = _REGISTRY.get(type(operation.function))
        if op in _REGISTRY and by_kind is not None and by_kind.__module__.endswith(f".{operation.family}"):
            assert _REGISTRY[op].__module__ == by_kind.__module__, op


def test_an_operation_loads_its_family_alone() -> None:
    asked = "import sys; from gnelint.components import component_class; component_class('relu')"
    program = f"{asked}; sys.exit('gnelint.components.recurrent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
