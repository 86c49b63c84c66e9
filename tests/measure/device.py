"""Where the tests of measuring run networks: on the CPU, or where `pytest --device` says."""

from __future__ import annotations

import os

import torch

DEVICE = os.environ.get("GNELINT_TEST_DEVICE", "cpu")
TORCH_DEVICE = torch.device(DEVICE)
