"""What reading a quantized file costs in answers, ours beside llama.cpp's.

`python -m labkit.bench.kl FILE.gguf` (the shipped model by default) runs the fused decoder and
llama.cpp on the file as it is. The reference is the plain decoder on the same file, dequantized to
float32 by the gguf package. So the weights are the same numbers for all three, and what differs is
arithmetic: how activations are rounded, and in which order sums are taken. With --requantize,
llama.cpp's own quantizer first writes the file anew in other formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click

from labkit.bench import client, quality
from labkit.bench.random_model import FTYPES, quantize
from labkit.errors import LabkitError, ParameterError
from labkit.model.gguf_header import GgufFile
from labkit.model.load import load
from labkit.quality.divergence import Divergence, share_of_kl
from labkit.report.told.words import text_table
from labkit.workload.texts import pieces

OURS, THEIRS = "fused", "llama.cpp"


class Figure(NamedTuple):
    """Ours and llama.cpp's divergence from the exact decoder on one file, at the same positions.

    ratio: our mean KL over theirs, with the ends of its paired 95 % interval.
    """

    file: Path
    ours: Divergence
    theirs: Divergence

    @property
    def ratio(self) -> tuple[float, float, float]:
        return share_of_kl(self.ours, self.theirs)

    @property
    def verdict(self) -> str:
        """How our mean KL compares with llama.cpp's, as far as these positions show."""
        _, low, high = self.ratio
        if high < 1:
            return "smaller than"
        return "larger than" if low > 1 else "not told apart from"

    def __str__(self) -> str:
        found = {OURS: self.ours, THEIRS: self.theirs}
        value, low, high = self.ratio
        return (
            f"{self.file.name}: {formats(self.file)}\n"
            f"{text_table([{'variant': name} | quality.row(name, found) for name in found])}\n"
            f"The mean KL of {OURS} is {self.verdict} {THEIRS}'s: {value:.3f}x [{low:.3f}, "
            f"{high:.3f}]."
        )


def formats(file: Path) -> str:
    """The formats of a file's tensors, by their share of its bytes: "Q4_1 66 %, Q8_0 34 %"."""
    sizes = GgufFile(file).formats()
    whole = sum(sizes.values())
    return ", ".join(f"{kind} {size / whole:.1%}" for kind, size in sizes.most_common())


def measure(model: str, tokens: int) -> Figure:
    """Judge both on `tokens` positions of held-out prose and code.

    model: a GGUF file, or nothing for the shipped one. Raises LabkitError where a variant cannot
    run, and ParameterError for a model that is no GGUF file.
    """
    source, file = _gguf(model)
    exact = load(model or None, "cpu", "float32")
    texts = pieces(exact.tokenizer, "evaluation", tokens)
    found, failed = quality.diverge_variants((OURS, THEIRS), source, exact.decoder, texts)
    if failed:
        raise LabkitError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    return Figure(file, found[OURS], found[THEIRS])


def requantized(model: str, kind: str) -> Path:
    """The file in other formats, made once beside what peers keep of it.

    A file that is quantized already is read as it is, and loses once more: for the figure it is as
    good as any, because the reference is the file that came out. Rows that blocks of 256 do not
    divide get another format by llama.cpp's own rule. Raises ParameterError for an unknown kind.
    """
    if kind not in FTYPES:
        raise ParameterError(f"{kind!r} is unknown; allowed: {', '.join(FTYPES)}.")
    source, file = _gguf(model)
    target = source.store / f"{file.stem}.{kind}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}")
        try:
            quantize(file, partial, kind)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _gguf(model: str) -> tuple[client.Source, Path]:
    """The model and its file; ParameterError where it has none."""
    source = client.locate(model or None)
    if source.gguf is None:
        raise ParameterError(
            f"{model} is no GGUF file: give one, or nothing for the shipped model."
        )
    return source, source.gguf


@click.command()
@click.argument("file", default="")
@click.option("--tokens", default=4096, show_default=True, help="of held-out prose and code")
@click.option("--requantize", default="", metavar="KIND", help=f"{', '.join(FTYPES)}")
def main(file: str, tokens: int, requantize: str) -> None:
    """Print the mean KL and the top-1 agreement of ours and of llama.cpp's on FILE."""
    try:
        figure = measure(str(requantized(file, requantize)) if requantize else file, tokens)
    except LabkitError as error:
        raise click.ClickException(str(error)) from None
    print(figure)


if __name__ == "__main__":
    main()
