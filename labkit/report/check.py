"""Before a run: is there such a device and such a model? `python -m labkit.report.check ...`.

In a process of its own, so that the one that watches over the notebooks never imports torch.
Prints what identifies model and machine as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from labkit.errors import LabkitError


def identity(model: str, device: str, dtype: str) -> dict[str, Any]:
    """Names of model, device and dtype, and a stamp of the weights; raises LabkitError."""
    import torch

    from labkit.model.config import read_config
    from labkit.model.load import locate, resolve_device, resolve_dtype, whole_weight_files
    from labkit.timing.environment import device_name, environment

    place = resolve_device(device)
    resolve_dtype(dtype)
    name, directory, _ = locate(model or None)
    read_config(directory)
    stats = [(file.name, file.stat()) for file in whole_weight_files(directory)]
    return {
        "model": name,
        "weights": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
        "device": place,
        "machine": device_name(place),
        "torch": torch.__version__,
        "environment": environment(place),
    }


def main() -> int:
    """Arguments: model (may be empty), device, dtype, file to write to."""
    model, device, dtype, target = sys.argv[1:5]
    try:
        found = identity(model, device, dtype)
    except LabkitError as error:
        print(error, file=sys.stderr)
        return 2
    with open(target, "w", encoding="utf-8") as file:
        json.dump(found, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
