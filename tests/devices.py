"""Devices and number types that tests of engines and poses run on: all that this machine has, and none skipped."""

from __future__ import annotations

import pytest
import torch

DEVICES = ("cpu", *(("cuda",) if torch.cuda.is_available() else ()))
DTYPES = (torch.float32, torch.float64)
on_devices = pytest.mark.parametrize("device", DEVICES)
in_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=("float32", "float64"))
