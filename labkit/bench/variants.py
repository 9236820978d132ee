"""The table of variants that `labkit bench` can compare."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.base.nearest import hint, nearest
from labkit.base.units import shown
from labkit.bench.install import is_installed, peer_python
from labkit.errors import ParameterError

_DRIVERS = Path(__file__).with_name("drivers")
LIST = "list"  # in place of names
_LISTED = f"`labkit bench --variants {LIST}` lists all, and says which can run here."


@dataclass(frozen=True)
class Variant:
    """A driver with its options, run by our interpreter or by that of a peer.

    peer: the engine in whose environment it runs, None for our own. module: a module of ours that
    it needs. needs_gguf: it can read only GGUF files.
    """

    name: str
    driver: str
    options: dict[str, Any] = field(default_factory=dict)
    peer: str | None = None
    module: str | None = None
    needs_gguf: bool = False

    @property
    def driver_path(self) -> Path:
        return _DRIVERS / f"{self.driver}.py"

    @property
    def python(self) -> Path:
        return peer_python(self.peer) if self.peer else Path(sys.executable)

    def missing(self) -> str | None:
        """What keeps it from running on this machine, and the remedy; None when nothing does."""
        if self.peer and not is_installed(self.peer):
            return f"{self.peer} is not installed; run `make peers`"
        if self.module and importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not part of this installation"
        return None


def _llama(peer: str, package: str) -> list[Variant]:
    formats = {"": None, ":f16": "f16", ":q8_0": "q8_0", ":q4_0": "q4_0"}
    return [
        Variant(peer + suffix, "llama", {"package": package, "format": kind}, peer, needs_gguf=True)
        for suffix, kind in formats.items()
    ]


def _with_lookup() -> Variant:
    """llama.cpp's own prompt lookup, drafting two tokens: what its authors advise without a GPU."""
    options = {"package": "llama_cpp", "format": None, "lookup": 2}
    return Variant("llama.cpp:lookup", "llama", options, "llama.cpp", needs_gguf=True)


def _unchecked(peer: str, package: str) -> Variant:
    """Batches of 512 even where they make the engine's answers wrong."""
    options = {"package": package, "format": None, "check": False}
    return Variant(f"{peer}:unchecked", "llama", options, peer, needs_gguf=True)


def _table() -> list[Variant]:
    fused = {"fused": "as-is", "fused:q8_0": "q8_0", "fused:q4_0": "q4_0"}
    every = {"kind": "fused", "weights": "as-is", "screened": False}
    served = {"kind": "engine", "weights": "as-is"}
    return [
        Variant("transformers", "ours", {"kind": "transformers"}),
        Variant("transformers:bf16", "ours", {"kind": "transformers", "dtype": "bfloat16"}),
        Variant("transformers:compiled", "ours", {"kind": "compiled"}),
        Variant("plain", "ours", {"kind": "plain"}),
        *(
            Variant(name, "ours", {"kind": "fused", "weights": w}, module="labkit.optimize.fused")
            for name, w in fused.items()
        ),
        Variant("fused:all-logits", "ours", every, module="labkit.optimize.fused"),
        Variant("fused:engine", "ours", served, module="labkit.optimize.fused"),
        *_llama("llama.cpp", "llama_cpp"),
        _with_lookup(),
        *_llama("ik_llama.cpp", "ik_llama_cpp"),
        _unchecked("ik_llama.cpp", "ik_llama_cpp"),
        Variant("onnxruntime-genai:int4", "ort", {"format": "int4"}, peer="onnxruntime-genai"),
        Variant("openvino-genai:int4", "ov", {"format": "int4"}, peer="openvino-genai"),
        Variant("openvino-genai:int8", "ov", {"format": "int8"}, peer="openvino-genai"),
        Variant("mnn:int4", "mnn", {"block": 64, "head_bits": 4}, peer="mnn"),
        Variant("mnn:int4-fine", "mnn", {"block": 32, "head_bits": 8}, peer="mnn"),
    ]


VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _table()}


def known() -> str:
    """The known names, one a line, those that can run here marked with a star."""
    lines = (f"  {' ' if v.missing() else '*'} {name}" for name, v in VARIANTS.items())
    return "\n".join(lines) + "\n(* can run here; `make peers` installs the other engines)"


def runnable(names: Sequence[str], with_gguf: bool) -> list[str]:
    """Those that can run here. with_gguf: whether the model has a GGUF file, which some need."""
    return [
        name
        for name in names
        if VARIANTS[name].missing() is None and (with_gguf or not VARIANTS[name].needs_gguf)
    ]


def named(text: str) -> list[str]:
    """The names in a text that has commas between them; ParameterError as `find`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    find(names)
    return names


def find(names: Sequence[str]) -> list[Variant]:
    """The variants named; ParameterError for an unknown or repeated name, or for none."""
    for name in names:
        if name not in VARIANTS:
            meant = hint(nearest(name, VARIANTS, 2))
            raise ParameterError(f"no variant {shown(name)}.{meant} {_LISTED}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ParameterError(
            f"variant {repeated[0]!r} is named twice; the control is added anyway."
        )
    if not names:
        raise ParameterError(f"no variant named. {_LISTED}")
    return [VARIANTS[name] for name in names]
