"""Before a run: check that the model and the device exist, and write what identifies them.

`python -m labkit.report.runs.identity MODEL DEVICE DTYPE FILE` is a process of its own. So the
process that watches the notebooks need not import torch, which takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labkit.base.paths import json_text
from labkit.base.places import writable_cache
from labkit.errors import LabkitError


def identity(model: str, device: str, dtype: str) -> dict[str, Any]:
    """What identifies model and machine, as JSON values.

    `weights` holds name, size and time of every weight file; `config` is the model's shape, and
    `text` how many tokens of text there are for it, by purpose and part; `environment` is the
    record of the machine. Raises LabkitError for a model, device or dtype that does not exist, and
    for a cache folder that cannot be written.
    """
    import torch

    from labkit.base.device import device_name, resolve_device
    from labkit.model.config import read_config
    from labkit.model.load import locate, resolve_dtype, tokenizer_of
    from labkit.model.weight_files import whole_weight_files
    from labkit.timing.environment import environment
    from labkit.workload.texts import PURPOSES, lengths

    writable_cache()
    resolved = resolve_device(device)
    resolve_dtype(dtype)
    name, directory, _ = locate(model or None)
    config, tokenizer = read_config(directory), tokenizer_of(directory)
    stats = [(file.name, file.stat()) for file in whole_weight_files(directory)]
    return {
        "model": name,
        "config": asdict(config),
        "text": {purpose: lengths(tokenizer, purpose) for purpose in PURPOSES},
        "weights": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
        "device": str(resolved),
        "machine": device_name(resolved),
        "torch": torch.__version__,
        "environment": environment(resolved),
    }


def main(given: Sequence[str]) -> int:
    """Write the identity as JSON, or `error` with one line; the model may be empty."""
    model, device, dtype, target = given
    try:
        found = identity(model, device, dtype)
    except LabkitError as error:
        found = {"error": str(error)}
    except Exception as error:  # a broken model can fail anywhere: its user needs a line of it
        said = " ".join(str(error).split())
        found = {"error": f"the model cannot be used ({type(error).__name__}): {said}"}
    Path(target).write_text(json_text(found), encoding="utf-8")
    return 2 if "error" in found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
