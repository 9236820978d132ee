"""Devices that this machine does not have: one clear line, whatever is asked of them."""

import pytest
import torch

from labkit.base import device
from labkit.errors import DeviceError
from labkit.limits.ceiling import ceiling

MISSING = f"cuda:{torch.cuda.device_count() + 7}"


@pytest.mark.parametrize(
    "ask",
    [device.device_name, device.memory_bytes, device.last_level_cache, ceiling],
    ids=lambda ask: ask.__name__,
)
def test_a_device_that_is_not_here_is_told(ask):
    with pytest.raises(DeviceError, match=f"'{MISSING}' was asked for, but torch sees only: "):
        ask(MISSING)
    ask("cpu")
    ask(torch.device("cpu"))
