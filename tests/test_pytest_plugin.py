"""The pytest plugin in a test suite of its own, as a user has one."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.test_cli import write_mlp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[1]
MODULE = "gnelint.pytest_plugin"


def plugin() -> tuple[str, ...]:
    """The option that loads the plugin: none where an installed gnelint brings it, as a checkout's path does not."""
    installed = any(entry.value == MODULE for entry in entry_points(group="pytest11"))
    return () if installed else ("-p", MODULE)


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the tests there are."""
    return pytester.runpytest_subprocess(*plugin(), "-p", "no:cacheprovider", *arguments)


def test_pytest_finds_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"gnelint": MODULE}


def test_loading_it_loads_nothing_heavy() -> None:
    code = f"import sys, {MODULE}; print([name for name in ('numpy', 'onnx', 'torch', 'yaml') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_one_line_gates_a_model(pytester: pytest.Pytester) -> None:
    write_mlp(pytester.path / "good.onnx", depth=24)
    write_mlp(pytester.path / "bad.onnx", depth=24, gain=0.5)
    pytester.makepyfile(
        """
        def test_good(assert_gradient_norm):
            found = assert_gradient_norm("good.onnx")
            assert found.findings == ()

        def test_bad(assert_gradient_norm):
            assert_gradient_norm("bad.onnx")

        def test_options(assert_gradient_norm):
            assert_gradient_norm("bad.onnx", select=["GNE9"])
            assert_gradient_norm("bad.onnx", fail_on="never")

        def test_nothing(assert_gradient_norm):
            assert_gradient_norm("nothing.onnx")
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*test_bad*",
            '>       assert_gradient_norm("bad.onnx")',
            "E       gnelint.errors.GradientNormError: bad.onnx: 48 nodes*",
            "E         The gradient vanishes*",
            "E         GNE101 error    gain-mismatch*24 places: fc0-23",
            "E*fix: multiply w* by*",
            "E       25 errors, 0 warnings.  Why: gnelint rule GNE101",
            "*test_nothing*",
            "E       gnelint.errors.ModelError: nothing.onnx: no such file.*",
        ]
    )
    assert "raise_for_findings" not in str(result.stdout)  # the user's lines, not gnelint's
    assert "def resolve" not in str(result.stdout)


def test_a_module(pytester: pytest.Pytester) -> None:
    pytest.importorskip("torch")
    pytester.makepyfile(
        """
        import torch

        def stack(gain):
            layers = [torch.nn.Linear(64, 64) for _ in range(24)]
            for layer in layers:
                torch.nn.init.normal_(layer.weight, std=gain * (2 / 64) ** 0.5)
            return torch.nn.Sequential(*[part for layer in layers for part in (layer, torch.nn.ReLU())])

        def test_good(assert_gradient_norm):
            assert_gradient_norm(stack(1.0), example_inputs=torch.zeros(16, 64))

        def test_bad(assert_gradient_norm):
            assert_gradient_norm(stack(0.5), example_inputs=(torch.zeros(16, 64),))
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E       gnelint.errors.GradientNormError: Sequential: 48 nodes*"])
    assert "torch.__trace" not in str(result.stdout)


def test_the_fixture_says_what_it_is_for(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--fixtures")
    result.stdout.fnmatch_lines(["assert_gradient_norm*", "*does not keep its gradient's norm*"])
