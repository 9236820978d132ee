"""All weights of a model in one stretch of memory, packed once and kept.

On disk a packed model is a folder: `weights.bin`, and `layout.json` with the config and where each
matrix and vector lies. In memory it is one stretch on huge pages where the system has them, laid
out for the threads that will read it (layout.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from labkit.memory import allocate
from labkit.model.config import ModelConfig, config_from_dict
from labkit.model.load import DEFAULT_MODEL, default_gguf, locate, read_tensors
from labkit.optimize.fused.layout import Entry, Place, lay_out
from labkit.optimize.fused.pack import BLOCK, LANES, FusedError, format_of, interleave, to_blocks
from labkit.optimize.fused.screen import SCREEN, SCREEN_ERROR, SCREENED, screen_of
from labkit.paths import cache_dir
from labkit.timing.environment import cores_allowed

VERSION = 3  # of the packing: a new one does not read old folders
AS_IS = "as-is"
_ALIGN = 4096
# Of the names below, what a decode step multiplies with; an embedding of its own is looked up.
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


@dataclass
class PackedWeights:
    """The blob and its table of contents; names are those of the plain decoder."""

    config: ModelConfig
    entries: dict[str, Entry]
    places: dict[str, Place]
    threads: int  # that it is laid out for
    blob: np.ndarray  # (bytes,) uint8

    def addresses(self, name: str) -> list[int]:
        """Where a tensor starts in memory: a matrix's share of each thread, or the one vector."""
        return [int(self.blob.ctypes.data) + start for start in self.places[name].starts]

    @property
    def has_screen(self) -> bool:
        """Whether there is a copy of the head to find the likeliest token with (screen.py)."""
        return SCREEN in self.entries

    def read_bytes(self, screened: bool = False) -> int:
        """Bytes a decode step reads: all but an embedding table of its own, and of head and screen
        only one (the few logits that are computed after screening not counted)."""
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


Tensors = Iterator[tuple[str, np.ndarray, str]]  # name, blocks or vector, format ("" for a vector)


def gguf_blocks(path: Path) -> tuple[dict[str, Any], Tensors]:
    """A GGUF file's config and its tensors, blocks as they are in the file."""
    from labkit.model.gguf_file import half_split, hf_config, hf_name, open_gguf

    reader = open_gguf(path)
    config = hf_config(reader, path)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}

    def tensors() -> Tensors:
        for tensor in reader.tensors:
            shape = tuple(int(n) for n in reversed(tensor.shape))
            what = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
            data, kind = np.asarray(tensor.data), ""
            if len(shape) == 2:
                form = format_of(tensor.tensor_type.name.lower())
                kind = form.name
                data = data.reshape(shape[0], shape[1] // BLOCK, form.nbytes)
            elif tensor.tensor_type.name != "F32":
                raise FusedError(
                    f"{path.name}: {tensor.name} is {tensor.tensor_type.name}, not F32."
                )
            if config["model_type"] == "llama" and what in heads:
                data = half_split(data, heads[what])
            yield hf_name(tensor.name, path).removeprefix("model."), data, kind

    return config, tensors()


def directory_blocks(directory: Path, weights: str) -> tuple[dict[str, Any], Tensors]:
    """A model directory's config and tensors, matrices rounded to `weights`; the head never
    below 8 bits, as llama.cpp keeps it."""
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))

    def tensors() -> Tensors:
        for name, tensor in read_tensors(directory):
            data = tensor.float().numpy()
            if data.ndim != 2:
                yield name, data, ""
                continue
            form = format_of("q8_0" if name in (EMBEDDING, HEAD) else weights)
            yield name, to_blocks(data, form), form.name

    return raw, tensors()


def _parts(tensors: Tensors, config: ModelConfig) -> Iterator[tuple[str, np.ndarray, Entry]]:
    """Each tensor's bytes as the kernel wants them, with its entry (offset still 0)."""
    head = EMBEDDING if config.tied_head else HEAD
    for name, data, kind in tensors:
        if name == HEAD and config.tied_head:
            continue
        if name == head and kind in SCREENED:
            yield from _parts(screen_of(data, format_of(kind)), config)
        if kind:
            blocks = interleave(data, format_of(kind))
            entry = Entry(0, blocks.nbytes, data.shape[0], data.shape[1] * BLOCK, kind)
            yield name, blocks.reshape(-1), entry
        else:
            padded = np.zeros(-(-data.size // LANES) * LANES, dtype=np.float32)
            padded[: data.size] = data
            yield name, padded.view(np.uint8), Entry(0, padded.nbytes, data.size)


def pack(raw: dict[str, Any], tensors: Tensors, folder: Path) -> None:
    """Write a packed model, all of it or nothing; FusedError for what the kernel cannot serve."""
    config = config_from_dict(raw)
    check_shape(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        entries: dict[str, dict[str, Any]] = {}
        with (work / "weights.bin").open("wb") as file:
            for name, data, entry in _parts(tensors, config):
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
    """Read a packed model for so many threads, by default one for each core allowed; FusedError
    where the folder is damaged."""
    threads = threads or cores_allowed()
    try:
        layout = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        entries = {name: Entry(**entry) for name, entry in layout["entries"].items()}
        places, size = lay_out(entries, threads)
        blob = allocate(size)
        with (folder / "weights.bin").open("rb") as file:
            if os.fstat(file.fileno()).st_size != layout["size"]:
                raise FusedError(f"packed weights in {folder} are cut short: delete the folder.")
            for name, entry in entries.items():
                file.seek(entry.offset)
                _fill(blob, file, entry, places[name])
        return PackedWeights(config_from_dict(layout["config"]), entries, places, threads, blob)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise FusedError(f"packed weights in {folder} cannot be read ({error}).") from error


def _fill(blob: np.ndarray, file: BufferedReader, entry: Entry, place: Place) -> None:
    """Read a tensor from where the file stands to its place."""
    if not entry.format:
        file.readinto(blob[place.starts[0] :][: entry.nbytes].data)
        return
    each = entry.group_bytes
    for start, _, count in place.held(entry):
        if place.stride == each:
            file.readinto(blob[start:][: count * each].data)
        elif count:
            to = as_strided(blob[start:], (count, each), (place.stride, 1))
            to[:] = np.frombuffer(file.read(count * each), dtype=np.uint8).reshape(count, each)


def packed(
    model: str | Path | None, weights: str = AS_IS, threads: int | None = None
) -> PackedWeights:
    """The packed weights of a model, converted on first use and kept.

    model: as labkit.model.load.load takes it. weights: "as-is" for a GGUF file's own blocks, or
    one of pack.FORMATS to round to. threads: that will read them, by default one for each core
    allowed. Raises FusedError for what the kernel cannot serve.
    """
    if weights != AS_IS:
        format_of(weights)
    source = _source(model, weights)
    folder = cache_dir() / "fused" / _key(source, weights)
    if not (folder / "layout.json").exists():
        found = gguf_blocks(source) if weights == AS_IS else directory_blocks(source, weights)
        pack(*found, folder)
    return read(folder, threads)


def _source(model: str | Path | None, weights: str) -> Path:
    """The GGUF file whose blocks are taken as they are, or the directory whose weights are
    rounded; only the latter needs a conversion."""
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
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    if not all(file.exists() for file in files):
        raise FusedError(f"no such file: {source}.")
    stamps = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    mark = f"{source.resolve()}|{stamps}|{weights}|{VERSION}"
    return f"{source.stem}-{weights}-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
