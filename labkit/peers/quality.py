"""What other engines' arithmetic costs in answers, judged as our own is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labkit.errors import LabkitError
from labkit.model.generate import Forward
from labkit.model.rows import Rows
from labkit.peers import client
from labkit.peers.client import Source, Worker
from labkit.peers.variants import find
from labkit.quality.divergence import Divergence, divergence
from labkit.timing.environment import cores_allowed


def _logits(forward: Forward, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return forward(Rows.prefill(ids, all_logits=True), forward.new_cache(1, len(ids)))


def judge_variants(
    names: Sequence[str], source: Source, reference: Forward, texts: Sequence[Sequence[int]]
) -> tuple[dict[str, Divergence], dict[str, str]]:
    """Variants by name against the reference on texts of token ids, teacher-forced.

    Each runs in its own process, reading a text as it reads a prompt. Returns what was found, and
    the messages of those that could not.
    """
    found: dict[str, Divergence] = {}
    failed: dict[str, str] = {}
    threads = cores_allowed()
    for variant in find(names):
        try:
            context = max(map(len, texts)) + 16
            options = client.load_options(variant, source, threads, context, "cpu", "float32")
            with Worker.start(variant, threads) as worker:
                worker.load(options, texts[0][:64])
                found[variant.name] = divergence(
                    texts,
                    lambda ids: _logits(reference, ids),
                    lambda ids, w=worker: torch.from_numpy(w.logits(ids)),  # type: ignore[misc]
                )
        except LabkitError as error:
            failed[variant.name] = str(error)
    return found, failed
