"""Train a draft head on the target's own text: `python -m labkit.optimize.speculative.head.train`.

The head is trained on the fused decoder's streams, which it will also read in use. It learns the
target's whole distribution at every position, not only the token that came.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from labkit.base.command import clear_errors, show
from labkit.base.paths import cache_dir
from labkit.base.places import try_file
from labkit.errors import ParameterError
from labkit.limits.work import BareProducts, rates
from labkit.model.decoder import Decoder, divided
from labkit.model.load import LoadedModel, load
from labkit.optimize.fused import FusedDecoder, load_fused
from labkit.optimize.speculative.head.model import Head, check_dense, save_head
from labkit.optimize.speculative.head.own_text import OwnText, Writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLE = 65536  # bytes at each end of a weight file, which identify it
_KIND = b"2"  # version of the head files; files of another version are not read
_UNSEEN = 100  # texts left out of training, to measure how well the head predicts new ones
_FASTER = 1.5  # training uses bfloat16 where its products are faster by this factor


@dataclass(frozen=True)
class Recipe:
    """How a head is made: write `tokens` of text for at most `writing` minutes, then train.

    minutes: of training. words: how many different tokens it can draft. length: tokens used of each
    text. texts: texts in a batch. rate: the highest learning rate. steps: if given, train so many
    steps instead of `minutes`. own: the share of positions where the head reads its own predicted
    stream instead of the target's, as it does from the second drafted token on.

    More text helps more than more passes over it. Trained on 400,000 tokens, each seen 13 times, a
    head predicted 70 % of the tokens in its training texts and 55 % in other texts.
    """

    tokens: int = 1_500_000
    writing: float = 20.0
    minutes: float = 30.0
    words: int = 8192
    length: int = 224
    texts: int = 8
    rate: float = 1e-3
    own: float = 0.25
    seed: int = 0
    steps: int | None = None


def frequent(texts: Sequence[OwnText], words: int, vocab: int) -> Tensor:
    """The ids written most often, (words,), most frequent first; all where there are fewer."""
    counts = torch.zeros(vocab, dtype=torch.int64)
    for text in texts:
        counts += torch.bincount(text.tokens, minlength=vocab)
    return counts.argsort(descending=True, stable=True)[:words].contiguous()


def batches(texts: Sequence[OwnText], recipe: Recipe) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of texts in random order.

    Each is tokens (texts, length + 1), features (texts, length, hidden), and which positions have a
    next feature, (texts, length - 1) bool.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    length, hidden = recipe.length, texts[0].features.shape[1]
    while True:
        order = torch.randperm(len(texts), generator=generator).tolist()
        for start in range(0, len(order) - recipe.texts + 1, recipe.texts):
            tokens = torch.zeros(recipe.texts, length + 1, dtype=torch.int64)
            features = torch.zeros(recipe.texts, length, hidden)
            known = torch.zeros(recipe.texts, length - 1, dtype=torch.bool)
            for row, index in enumerate(order[start : start + recipe.texts]):
                text = texts[index]
                n = min(length, len(text.features))
                tokens[row, : n + 1] = text.tokens[: n + 1]
                features[row, :n] = text.features[:n].float()
                known[row, : n - 1] = True
            yield tokens, features, known


def loss_of(
    head: Head, target: Decoder, batch: tuple[Tensor, Tensor, Tensor], own: float
) -> tuple[Tensor, Tensor]:
    """(cross-entropy to the target's distribution in nats, share of positions where both name the
    same token)."""
    tokens, features, known = batch
    length = features.shape[1] - 1
    with torch.no_grad():
        embedded = target.table(tokens[:, 1 : length + 1])
        rope = target.rope(torch.arange(length))
        wanted = F.linear(target.norm(features[:, 1:][known]), head.words)
        wanted = divided(wanted, head.config)
        given = features[:, :-1]
        if own:
            predicted = head.streams(embedded, given, rope)
            mine = torch.rand(given.shape[:2]) < own
            mine[:, 0] = False
            given = torch.where(mine[..., None], predicted.roll(1, dims=1), given)
    found = head.logits(head.streams(embedded, given, rope)[known])
    agree = (found.argmax(-1) == wanted.argmax(-1)).float().mean()
    return F.cross_entropy(found, wanted.softmax(-1)), agree


@torch.no_grad()
def share_predicted(head: Head, target: Decoder, texts: Sequence[OwnText]) -> float:
    """The share of positions where the head's likeliest token is the target's."""
    same = positions = 0
    for text in texts:
        length = len(text.tokens) - 2
        embedded = target.table(text.tokens[None, 1 : length + 1])
        features = text.features.float()
        rope = target.rope(torch.arange(length))
        found = head.logits(head.streams(embedded, features[None, :length], rope)[0])
        wanted = target.lm_head(target.norm(features[1:])).argmax(-1)
        same += int((head.ids[found.argmax(-1)] == wanted).sum())
        positions += length
    return same / max(1, positions)


def half_pays() -> bool:
    """Whether products in bfloat16 are fast enough on this machine to train with them."""
    bfloat16, float32 = (max(rates(BareProducts(d, 768), 0.3)) for d in ("bfloat16", "float32"))
    return bfloat16 > _FASTER * float32


def train(
    target: Decoder, texts: Sequence[OwnText], recipe: Recipe, half: bool = False
) -> tuple[Head, list[tuple[float, float]]]:
    """A head after the recipe's minutes or steps, and (loss, agreement) of every step.

    half: multiply in bfloat16; weights and sums stay float32. Where the recipe gives minutes, the
    learning rate falls with time: a slow machine takes fewer steps, but ends at the same rate.
    """
    torch.manual_seed(recipe.seed)
    head = Head.of(target, frequent(texts, recipe.words, target.config.vocab_size))
    trained = [p for p in head.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.01)
    began, history = time.monotonic(), []
    with tqdm(desc="training", unit="step") as bar:
        for step, batch in enumerate(batches(texts, recipe)):
            done = _share_done(recipe, step, time.monotonic() - began)
            if done >= 1:
                break
            scale = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * scale
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss, agree = loss_of(head, target, batch, recipe.own if done > 0.3 else 0.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            history.append((float(loss.detach()), float(agree)))
            bar.update()
            if step % 20 == 19:
                loss_now, agree_now = (np.mean(last) for last in zip(*history[-100:], strict=True))
                bar.set_postfix(loss=f"{loss_now:.3f}", agree=f"{agree_now:.3f}")
    return head.eval(), history


def _share_done(recipe: Recipe, steps: int, seconds: float) -> float:
    """How much of the training is over after so many steps and seconds, 0 to 1."""
    return steps / recipe.steps if recipe.steps else seconds / (60 * recipe.minutes)


def write_texts(
    target: FusedDecoder, tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> list[OwnText]:
    """The target's own text for a recipe.

    Torch uses one thread meanwhile: more would spin on the cores that the fused decoder needs.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            writer = Writer(target, tokenizer, seed=recipe.seed)
            return list(writer.texts(recipe.tokens, recipe.writing))
    finally:
        torch.set_num_threads(threads)


def head_path(loaded: LoadedModel) -> Path:
    """The file of a model's head. Its name comes from the model's weights, not from their path.

    Only the first and last bytes of the weights are read. If two models got the same name, the
    wrong head would gain less, but change no answer.
    """
    key = hashlib.sha256(_KIND)
    for path in sorted(loaded.directory.glob("*.safetensors")):
        with path.open("rb") as file:
            key.update(file.read(_SAMPLE))
            file.seek(-min(_SAMPLE, path.stat().st_size), os.SEEK_END)
            key.update(file.read())
    name = f"{Path(loaded.name).name}-{key.hexdigest()[:12]}.safetensors"
    return cache_dir() / "heads" / name


@click.command()
@click.option("--model", default="", help="directory, GGUF file or hub id; default: the built-in")
@click.option("--minutes", default=Recipe.minutes, show_default=True, help="of training")
@click.option("--tokens", default=Recipe.tokens, show_default=True, help="of the target's own text")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="default: kept")
@clear_errors
def main(model: str, minutes: float, tokens: int, out: Path | None) -> None:
    """Train a draft head for MODEL and keep it."""
    if not 0 < minutes < math.inf or tokens < 1:
        raise ParameterError(f"{minutes:g} minutes and {tokens} tokens: both must be above 0.")
    loaded = load(model or None)
    check_dense(loaded.config)
    path = try_file(out or head_path(loaded), "the head", "give another place to --out")
    recipe = Recipe(tokens=tokens, minutes=minutes)
    began = time.monotonic()
    texts = write_texts(load_fused(model or None), loaded.tokenizer, recipe)
    wrote = time.monotonic()
    kept = min(_UNSEEN, len(texts) // 10)
    unseen, seen = texts[:kept], texts[kept:]
    half = half_pays()
    head, history = train(loaded.decoder, seen, recipe, half)
    made = asdict(recipe) | {
        "model": loaded.name,
        "texts_written": len(texts),
        "tokens": sum(len(text.tokens) for text in texts),
        "seconds_writing": round(wrote - began),
        "multiplied_in": "bfloat16" if half else "float32",
        "steps": len(history),
        "loss": float(np.mean([loss for loss, _ in history[-100:]])),
        "agreement": share_predicted(head, loaded.decoder, unseen),
        "torch": torch.__version__,
    }
    try:
        save_head(head, path, made)  # first: a reader of the output that has gone must not cost it
    finally:  # and what was measured is told even where the head cannot be written
        show(f"{path}: {made}")


if __name__ == "__main__":
    main()
