"""Before a run: check that the model and the device exist, and write what identifies them.

`python -m labkit.report.runs.identity MODEL DEVICE DTYPE FILE` is a process of its own. So the
process that watches the notebooks need not import torch, which takes seconds.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from labkit.errors import LabkitError


def identity(model: str, device: str, dtype: str) -> dict[str, Any]:
    """What identifies model and machine, as JSON values.

    `weights` holds name, size and time of every weight file; `environment` is the record of the
    machine. Raises LabkitError for a model, device or dtype that does not exist.
    """
    import torch

    from labkit.base.device import device_name, resolve_device
    from labkit.model.config import read_config
    from labkit.model.load import locate, resolve_dtype
    from labkit.model.weight_files import whole_weight_files
    from labkit.timing.environment import environment

    resolved = resolve_device(device)
    resolve_dtype(dtype)
    name, directory, _ = locate(model or None)
    read_config(directory)
    stats = [(file.name, file.stat()) for file in whole_weight_files(directory)]
    return {
        "model": name,
        "weights": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
        "device": str(resolved),
        "machine": device_name(resolved),
        "torch": torch.__version__,
        "environment": environment(resolved),
    }


def main() -> int:
    """Write the identity as JSON; the model may be empty. Exit code 2 and a line for an error."""
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
