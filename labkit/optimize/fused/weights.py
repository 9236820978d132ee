"""All weights of a model in one stretch of memory, packed once and kept.

In memory a packed model is one stretch, on huge pages where the system has them, laid out for the
threads that will read it (layout.py). On disk it is a folder: `weights.bin`, and `layout.json` with
the config and where each matrix and vector lies.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from labkit.base.device import cores_allowed
from labkit.base.memory import allocate
from labkit.base.paths import cache_dir
from labkit.model.config import ModelConfig, config_from_dict
from labkit.model.load import DEFAULT_MODEL, default_gguf, locate
from labkit.optimize.fused.layout import Entry, Location, lay_out
from labkit.optimize.fused.pack import BLOCK, LANES, FusedError, format_of, interleave
from labkit.optimize.fused.screen import SCREEN, SCREEN_ERROR, SCREENED, screen_of
from labkit.optimize.fused.sources import (
    EMBEDDING,
    HEAD,
    Weights,
    directory_weights,
    gguf_weights,
)

VERSION = 3  # of the packing: a new one does not read old folders
AS_IS = "as-is"
_ALIGN = 4096


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

        That is all weights but an untied embedding table, with either the head or the screen. The
        few logits that are computed with the head after screening are not counted.
        """
        left_out = {self.head} if screened else {SCREEN, SCREEN_ERROR}
        left_out |= {EMBEDDING} if HEAD in self.entries else set()
        return sum(e.nbytes for name, e in self.entries.items() if name not in left_out)

    @property
    def head(self) -> str:
        """The name of the matrix that gives the logits."""
        return HEAD if HEAD in self.entries else EMBEDDING


def check_shape(config: ModelConfig) -> None:
    """FusedError for sizes that do not divide into the kernel's blocks."""
    sizes = {
        "hidden size": (config.hidden_size, BLOCK),
        "intermediate size": (config.intermediate_size, BLOCK),
        "query size": (config.heads * config.head_dim, BLOCK),
        "head size": (config.head_dim, LANES),
    }
    for name, (size, divisor) in sizes.items():
        if size % divisor:
            raise FusedError(
                f"the fused decoder needs a {name} that {divisor} divides; this model's is {size}."
            )


def _interleaved(
    tensors: Iterable[Weights], config: ModelConfig
) -> Iterator[tuple[str, np.ndarray, Entry]]:
    """Each tensor's bytes as the kernel reads them, with its entry (offset still 0)."""
    head = EMBEDDING if config.tied_head else HEAD
    for name, data, kind in tensors:
        if name == HEAD and config.tied_head:
            continue
        if name == head and kind in SCREENED:
            yield from _interleaved(screen_of(data, format_of(kind)), config)
        if kind:
            blocks = interleave(data, format_of(kind))
            entry = Entry(0, blocks.nbytes, data.shape[0], data.shape[1] * BLOCK, kind)
            yield name, blocks.reshape(-1), entry
        else:
            padded = np.zeros(-(-data.size // LANES) * LANES, dtype=np.float32)
            padded[: data.size] = data
            yield name, padded.view(np.uint8), Entry(0, padded.nbytes, data.size)


def pack(config: ModelConfig, tensors: Iterable[Weights], threads: int) -> PackedWeights:
    """Pack weights in memory for `threads` threads; FusedError if the kernel cannot use them."""
    check_shape(config)
    made = {name: (data, entry) for name, data, entry in _interleaved(tensors, config)}
    entries = {name: entry for name, (_, entry) in made.items()}
    locations, size = lay_out(entries, threads)
    blob = allocate(size)
    for name, (data, entry) in made.items():
        _fill(blob, BytesIO(data.tobytes()), entry, locations[name])
    return PackedWeights(config, entries, locations, threads, blob)


def write(raw: dict[str, Any], tensors: Iterable[Weights], folder: Path) -> None:
    """Write a packed model to a folder, all of it or nothing.

    raw: the config as a dict. FusedError for a model that the kernel does not support.
    """
    config = config_from_dict(raw)
    check_shape(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        entries: dict[str, dict[str, Any]] = {}
        with (work / "weights.bin").open("wb") as file:
            for name, data, entry in _interleaved(tensors, config):
                file.write(b"\0" * (-file.tell() % _ALIGN))
                entries[name] = asdict(entry) | {"offset": file.tell()}
                file.write(data.tobytes())
            size = file.tell()
        layout = {"config": raw, "entries": entries, "size": size}
        (work / "layout.json").write_text(json.dumps(layout), encoding="utf-8")
        if not folder.exists():  # else another process was faster
            work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read(folder: Path, threads: int | None = None) -> PackedWeights:
    """Read a packed model for `threads` threads, by default one for each core allowed.

    FusedError where the folder is damaged.
    """
    threads = threads or cores_allowed()
    try:
        layout = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        entries = {name: Entry(**entry) for name, entry in layout["entries"].items()}
        locations, size = lay_out(entries, threads)
        blob = allocate(size)
        with (folder / "weights.bin").open("rb") as file:
            if os.fstat(file.fileno()).st_size != layout["size"]:
                raise FusedError(f"packed weights in {folder} are cut short: delete the folder.")
            for name, entry in entries.items():
                file.seek(entry.offset)
                _fill(blob, file, entry, locations[name])
        return PackedWeights(config_from_dict(layout["config"]), entries, locations, threads, blob)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise FusedError(f"packed weights in {folder} cannot be read ({error}).") from error


def _fill(blob: np.ndarray, file: BufferedIOBase, entry: Entry, location: Location) -> None:
    """Read a tensor from the file's current position to its location in memory."""
    if not entry.format:
        file.readinto(blob[location.starts[0] :][: entry.nbytes].data)
        return
    each = entry.group_bytes
    for start, _, count in location.shares(entry):
        if location.stride == each:
            file.readinto(blob[start:][: count * each].data)
        elif count:
            to = as_strided(blob[start:], (count, each), (location.stride, 1))
            to[:] = np.frombuffer(file.read(count * each), dtype=np.uint8).reshape(count, each)


def packed(
    model: str | Path | None, weights: str = AS_IS, threads: int | None = None
) -> PackedWeights:
    """The packed weights of a model, converted on first use and kept.

    model: as labkit.model.load.load takes it. weights: "as-is" for a GGUF file's own blocks, or one
    of pack.FORMATS to round to. threads: how many will read them, by default one for each core
    allowed. Raises FusedError for a model or format that the kernel does not support.
    """
    if weights != AS_IS:
        format_of(weights)
    source = _source(model, weights)
    folder = cache_dir() / "fused" / _key(source, weights)
    if not (folder / "layout.json").exists():
        found = gguf_weights(source) if weights == AS_IS else directory_weights(source, weights)
        write(*found, folder)
    return read(folder, threads)


def _source(model: str | Path | None, weights: str) -> Path:
    """The GGUF file whose blocks are taken as they are, or the directory whose weights are
    rounded."""
    if weights == AS_IS and model is not None and Path(model).suffix == ".gguf":
        return Path(model).expanduser()
    if weights == AS_IS and str(model or "") in ("", DEFAULT_MODEL):
        return default_gguf()
    _, directory, _ = locate(model)
    if weights == AS_IS:
        raise FusedError(
            f"weights {AS_IS!r} are those of a GGUF file, and {directory} is none; "
            "choose q8_0, q4_1 or q4_0."
        )
    return directory


def _key(source: Path, weights: str) -> str:
    """The folder name of a packed model. It changes with the source files and the format."""
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    if not all(file.exists() for file in files):
        raise FusedError(f"no such file: {source}.")
    stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    mark = f"{source.resolve()}|{stamps}|{weights}|{VERSION}"
    return f"{source.stem}-{weights}-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
