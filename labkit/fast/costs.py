"""What rows of a pass cost here: measured once for a model and a number of threads, and kept.

Without it nobody knows how many drafted tokens are worth verifying on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from pathlib import Path

import torch

from labkit.base.device import cores_allowed, device_name, threads
from labkit.base.native import cpu_features
from labkit.base.paths import atomic_write, cache_dir, json_in, json_text
from labkit.engine.row_costs import RowCosts
from labkit.errors import ParameterError
from labkit.fast.chosen import Chosen, Tell
from labkit.model.forward import Weighed, offers
from labkit.optimize.speculative.costs import row_costs
from labkit.workload.prompts import prompt_ids

_VERSION = 1  # of the measurement: a new one does not read what an old one kept
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
_CONTEXT = 256  # tokens before the rows
_SECONDS = 3.0  # that the rounds should take
_FEWEST, _MOST = 3, 12  # rounds
_LEAST_CONTEXT = 64  # of a model: shorter answers gain nothing


def kept_costs(chosen: Chosen, tell: Tell) -> RowCosts | None:
    """The cost of a decoder's rows, measured now and told where nothing was kept.

    None, which is told too, for a model whose context is too short for drafts.
    """
    if chosen.decoder.config.max_positions < _LEAST_CONTEXT:
        tell(f"No drafts: the model's context is below {_LEAST_CONTEXT} tokens.")
        return None
    path = cache_dir() / "rows" / f"{_mark(chosen)}.json"
    if (found := _read(path)) is not None:
        return found
    tell("Measuring what drafts cost on this machine once, which takes some seconds ...")
    with threads(chosen.torch_threads):
        found = _measured(chosen)
    kept = {"seconds": found.seconds, "relative": found.relative, "context": found.context}
    with contextlib.suppress(OSError):  # costs that cannot be stored still hold
        atomic_write(path, json_text(kept))
    return found


def _measured(chosen: Chosen) -> RowCosts:
    decoder = chosen.decoder
    context = min(_CONTEXT, decoder.config.max_positions // 2)
    text = prompt_ids(chosen.tokenizer, context)
    one = row_costs(decoder, (1,), context, 2, text).seconds
    passes = 4 * len(_ROWS)  # of a round: each size four times, and they cost more than one row
    rounds = int(_SECONDS / (2 * passes * one))
    return row_costs(decoder, _ROWS, context, min(_MOST, max(_FEWEST, rounds)), text)


def _mark(chosen: Chosen) -> str:
    """A name for all that the costs follow from."""
    decoder = chosen.decoder
    weighed = offers(decoder, Weighed)
    given = (
        _VERSION, decoder.config, chosen.name, chosen.device, chosen.threads, cores_allowed(),
        weighed and weighed.weight_bytes, getattr(decoder, "isa", ""), torch.__version__,
        cpu_features() if chosen.device.type == "cpu" else device_name(chosen.device),
    )  # fmt: skip
    return hashlib.sha256("|".join(map(str, given)).encode()).hexdigest()[:16]


def _read(path: Path) -> RowCosts | None:
    """What was kept; None where there is nothing, or a file that was cut short or changed."""
    try:
        kept = json_in(path)
        found = RowCosts(kept["seconds"], tuple(kept["relative"]), kept["context"])
        numbers = (found.seconds, *found.relative, found.context + 1)
        sound = all(0 < number < math.inf for number in numbers)
        return found if sound and len(found.relative) == _ROWS[-1] else None
    except (ValueError, LookupError, TypeError, ParameterError):
        return None
