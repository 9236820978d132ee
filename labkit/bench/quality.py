"""What engines' arithmetic costs in answers: `python -m labkit.bench.quality VARIANT ...`.

Ours and the peers' alike, each in its own process as `labkit bench` runs it, against the exact
decoder on the same file's dequantized weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import click
import torch

from labkit.base.device import cores_allowed
from labkit.bench import client
from labkit.bench.client import Source, Worker
from labkit.bench.variants import find
from labkit.errors import LabkitError
from labkit.model.forward import Forward
from labkit.model.load import load
from labkit.quality.divergence import Divergence, divergence, share_of_kl
from labkit.quality.judge import chunked_logits
from labkit.report.told.words import text_table
from labkit.workload.texts import pieces


def _logits(forward: Forward, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat(list(chunked_logits(forward, ids)))


def judge_variants(
    names: Sequence[str], source: Source, reference: Forward, texts: Sequence[Sequence[int]]
) -> tuple[dict[str, Divergence], dict[str, str]]:
    """Variants by name against the reference on texts of token ids, teacher-forced.

    Each runs in its own process, and reads a text as it reads a prompt. Returns the divergence of
    each, and the messages of those that failed.
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


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="VARIANT...")
@click.option("--model", default="", help="directory, hub id or GGUF file; default: the shipped")
@click.option("--tokens", default=2048, show_default=True, help="of held-out prose and code")
def main(names: tuple[str, ...], model: str, tokens: int) -> None:
    """Print how far each VARIANT's distributions are from the exact decoder's."""
    loaded = load(model or None)
    texts = pieces(loaded.tokenizer, "evaluation", tokens)
    found, failed = judge_variants(names, client.locate(model or None), loaded.decoder, texts)
    print(text_table([{"variant": name} | _words(name, found) for name in found]))
    for name, message in failed.items():
        print(f"{name}: FAILED: {message}")
    raise SystemExit(bool(failed))


def _words(name: str, found: dict[str, Divergence]) -> dict[str, str]:
    first, *others = found
    quality = found[name].quality()
    share, low, high = share_of_kl(found[name], found[first])
    against = {f"KL against {first}'s": f"{share:.2f}x [{low:.2f}, {high:.2f}]"} if others else {}
    return {
        "positions": str(quality["positions"]),
        "mean KL, nats": f"{quality['kl_mean']:.4f}",
        "99th percentile": f"{quality['kl_p99']:.4f}",
        "same top token": f"{quality['top1_agreement']:.1%}",
        "perplexity ratio": f"{quality['perplexity_ratio']:.4f}",
    } | against


if __name__ == "__main__":
    main()
