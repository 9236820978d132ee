"""All weights of a model in one stretch of memory, on huge pages where the system has them, laid
out for the threads that will read it (layout.py)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from labkit.base.device import cores_allowed
from labkit.base.kept import folder_name, keep, stamp
from labkit.base.memory import allocate
from labkit.base.paths import cache_dir
from labkit.base.units import shown
from labkit.errors import ModelError
from labkit.model.config import ModelConfig, read_config
from labkit.model.load import DEFAULT_MODEL, default_gguf, locate, locate_described, named_path
from labkit.optimize.fused import kept, native
from labkit.optimize.fused.layout import Entry, Location, check_threads, lay_out
from labkit.optimize.fused.pack import BLOCK, LANES, ROUNDED, FusedError, format_of, interleave
from labkit.optimize.fused.screen import SCREEN, SCREEN_ERROR, SCREENED, screen_of
from labkit.optimize.fused.sources import (
    EMBEDDING,
    HEAD,
    Weights,
    directory_weights,
    gguf_weights,
    held,
    own_head,
)

VERSION = 5  # of the rounding and of what is kept of it
AS_IS = "as-is"
_CHUNK = 2**22  # bytes that are read at once: little beside the weights themselves


@dataclass
class PackedWeights:
    """Weights in memory and their table of contents, by the plain decoder's names.

    entries: size and format of each tensor. locations: where each lies in `blob` (bytes,) uint8.
    threads: the number of threads that it is laid out for.
    """

    config: ModelConfig
    entries: dict[str, Entry]
    locations: dict[str, Location]
    threads: int
    blob: np.ndarray

    def addresses(self, name: str) -> list[int]:
        """The addresses at which a tensor starts: one for each thread's share of a matrix, or one
        for a vector."""
        return [int(self.blob.ctypes.data) + start for start in self.locations[name].starts]

    @property
    def has_screen(self) -> bool:
        """Whether there is a smaller copy of the head for screening (screen.py)."""
        return SCREEN in self.entries

    def read_bytes(self, screened: bool = False) -> int:
        """Bytes that a decode step reads.

        That is all weights but an untied embedding table, with either the head or the screen, and
        of a mixture's experts those that one row uses. The few logits that are computed with the
        head after screening are not counted.
        """
        left_out = {self.head} if screened else {SCREEN, SCREEN_ERROR}
        left_out |= {EMBEDDING} if HEAD in self.entries else set()
        read = {name: e.nbytes for name, e in self.entries.items() if name not in left_out}
        experts = self.config.experts
        return sum(read.values()) - int(experts.idle(read) if experts else 0)

    @property
    def head(self) -> str:
        """The name of the matrix that gives the logits."""
        return HEAD if HEAD in self.entries else EMBEDDING


def check_shape(config: ModelConfig) -> None:
    """FusedError for sizes that do not divide into the kernel's blocks, and for mixtures of experts
    in a family of other arithmetic than Qwen3-MoE's."""
    experts = config.experts
    plain = config.pre_norms and not config.post_norms and config.residual_multiplier == 1
    if experts and not (plain and config.activation == "silu"):
        raise FusedError(
            "the fused decoder computes mixtures of experts as Qwen3-MoE has them; those of "
            f"{config.family} differ in norms, multipliers or activation."
        )
    dense = experts is None or len(experts.layers) < config.layers
    sizes = {
        "a hidden size": (config.hidden_size, BLOCK),
        "an intermediate size": (config.intermediate_size if dense else 0, BLOCK),
        "an expert size": (experts.size if experts else 0, BLOCK),
        "a query size": (config.heads * config.head_dim, BLOCK),
        "a head size": (config.head_dim, LANES),
    }
    for name, (size, divisor) in sizes.items():
        if size % divisor:
            raise FusedError(
                f"the fused decoder needs {name} that {divisor} divides; this model's is {size}."
            )


def _entry(tensor: Weights) -> Entry:
    """What a tensor takes in memory."""
    padded = -(-tensor.shape[0] // LANES) * LANES
    if not tensor.format:
        return Entry(padded * 4, tensor.shape[0])
    rows, columns = tensor.shape
    return Entry(padded * tensor.row_bytes, rows, columns, tensor.format)


def _with_screen(tensors: Iterable[Weights], head: str) -> Iterator[Weights]:
    for tensor in tensors:
        if tensor.name == head and tensor.format in SCREENED:
            yield from screen_of(tensor)
        yield tensor


def pack(config: ModelConfig, tensors: Iterable[Weights], threads: int) -> PackedWeights:
    """Pack weights in memory for `threads` threads; FusedError if the kernel cannot use them.

    A head beside a tied embedding is left out where it is the same. Where logits are divided, the
    norm before the head is: then neither the head nor its screen need to know.
    """
    check_shape(config)
    tensors = [_divided(one, config.logits_divisor) for one in tensors]
    if own_head(config, tensors):
        config = replace(config, tied_head=False)
    head = EMBEDDING if config.tied_head else HEAD
    given = [one for one in tensors if not (one.name == HEAD and config.tied_head)]
    given = list(_with_screen(given, head))
    entries = {tensor.name: _entry(tensor) for tensor in given}
    locations, size = lay_out(entries, threads)
    made = PackedWeights(config, entries, locations, threads, allocate(size))
    with ThreadPoolExecutor(cores_allowed()) as beside:  # the kernel's calls leave the lock free
        list(beside.map(lambda tensor: _fill(made, tensor), given))
    return made


def _divided(tensor: Weights, by: float) -> Weights:
    """The norm before the head over what logits are divided by; anything else as it is."""
    if by == 1 or tensor.name != "norm.weight":
        return tensor
    return held(tensor.name, tensor.whole() / np.float32(by))


def _fill(made: PackedWeights, tensor: Weights) -> None:
    """Write a tensor to its place in memory."""
    entry, location = made.entries[tensor.name], made.locations[tensor.name]
    if not tensor.format:
        to = made.blob[location.starts[0] :][: tensor.shape[0] * 4]
        to.view(np.float32)[:] = tensor.whole()
        return
    form, base = format_of(tensor.format), int(made.blob.ctypes.data)
    at_once = max(1, _CHUNK // (LANES * tensor.row_bytes))  # groups
    for start, first, count in location.shares(entry):
        for done in range(0, count, at_once):
            row = (first + done) * LANES
            rows = min(min(at_once, count - done) * LANES, tensor.shape[0] - row)
            place = base + start + done * location.stride
            interleave(native.library(), tensor.read(row, rows), form, place, location.stride)


def packed(
    model: str | Path | None, weights: str = AS_IS, threads: int | None = None
) -> PackedWeights:
    """The packed weights of a model.

    model: as labkit.model.load.load takes it. weights: "as-is" for a GGUF file's own blocks, or one
    of pack.ROUNDED to round to, which is done once and kept. threads: how many will read them, by
    default one for each core allowed. Raises FusedError for a model or format that the kernel does
    not support.
    """
    threads = cores_allowed() if threads is None else threads
    check_threads(threads)
    if weights != AS_IS and weights not in ROUNDED:
        raise FusedError(
            f"weights {shown(weights)}: allowed are {AS_IS}, for the blocks of a GGUF file, and "
            f"{', '.join(ROUNDED)}."
        )
    source = _source(model, weights)
    config, tensors = gguf_weights(source) if weights == AS_IS else _rounded(source, weights)
    return pack(config, tensors, threads)


def _rounded(directory: Path, weights: str) -> tuple[ModelConfig, list[Weights]]:
    """A directory's config and its rounded tensors, as they were kept or made now."""
    config = read_config(directory)
    check_shape(config)
    made_from = _mark(directory, weights)
    key = hashlib.sha256(os.fsencode(made_from)).hexdigest()[:12]
    folder = cache_dir() / "fused" / folder_name(directory.name, f"{weights}-{key}")

    def make(to: Path) -> None:
        print(f"Rounding {directory.name} to {weights} once ...", flush=True)
        kept.write(directory_weights(directory, weights), to)

    try:
        return config, kept.read(keep(folder, made_from, make))
    except OSError as error:
        raise FusedError(
            f"rounded weights could not be kept in {folder.parent} ({error}): make room there, or "
            "set LABKIT_CACHE to another folder."
        ) from error


def _source(model: str | Path | None, weights: str) -> Path:
    """The GGUF file whose blocks are taken as they are, or the directory whose weights are
    rounded."""
    if weights != AS_IS:
        return locate(model)[1]
    if model is None or str(model) in ("", DEFAULT_MODEL):
        return default_gguf()
    if (path := named_path(model)).suffix == ".gguf":
        return path
    _, directory, _ = locate_described(model)
    raise FusedError(
        f"weights {AS_IS!r} are those of a GGUF file, and {directory} is none; "
        f"choose {', '.join(ROUNDED)}."
    )


def _mark(directory: Path, weights: str) -> str:
    """What rounded weights are made from: the files with their stamps, the config's text, the
    format. ModelError for a file that cannot be read."""
    config = (directory / "config.json").read_text(encoding="utf-8")
    stamps = []
    found = [*directory.glob("*.safetensors"), *directory.glob("*.json")]
    for file in sorted(one for one in found if one.is_file()):  # others are not read
        try:
            stamps.append((file.name, stamp(file)))
        except OSError as error:
            raise ModelError(f"{file} cannot be read: {error.strerror}.") from error
    return f"{directory.resolve()}|{stamps}|{config}|{weights}|{VERSION}"
