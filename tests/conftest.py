"""The option `--device`: measure on a GPU what the tests of measuring otherwise measure on the CPU."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

COLLECT_AFTER = 100_000
"""Objects by which the newest generation grows before Python looks for circles; its own 700 cost a tenth of all time,
as each trace makes some hundred thousand that hold one another."""
MEASURE = Path(__file__).parent / "measure"

settings.register_profile("same", derandomize=True)
settings.register_profile("anew")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests of measuring run networks: cpu, cuda, cuda:1")


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: threads of their own would wait for one another
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
    # what CI says of a change is about the change: examples are drawn anew where the slow tests are asked for
    settings.load_profile("anew" if config.getoption("markexpr") == "slow" else "same")
    if config.getoption("--device") == "cpu":  # read where Triton is imported, and torch imports it on its own account
        os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ["GNELINT_TEST_DEVICE"] = config.getoption("--device")  # for tests.measure.device and its processes


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 50)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    device = config.getoption("--device")
    if device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        reason = pytest.mark.skip(reason=f"--device {device}: there is no GPU that this torch can use")
        for item in items:
            if MEASURE in item.path.parents:
                item.add_marker(reason)
