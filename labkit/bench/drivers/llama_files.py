"""The GGUF files that llama.cpp and ik_llama.cpp run: the one given, or its requantized twin.

For drivers/llama, in an environment that has nothing of ours: standard library only.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_FORMATS = {"f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7}  # llama_ftype
API = {"llama_cpp": "llama_cpp.llama_cpp", "ik_llama_cpp": "ik_llama_cpp._ctypes_api"}


def model_file(options: dict[str, Any]) -> Path:
    """The file that is run: the one given, or its requantized twin in the store."""
    source = Path(options["gguf"])
    if options["format"] is None:
        return source
    # Both engines run the very same requantized file, whichever of them wrote it.
    return Path(options["store"]) / f"{source.stem}.{options['format']}.gguf"


def requantize(options: dict[str, Any]) -> None:
    """Make the twin once, with the engine's own quantizer."""
    target = model_file(options)
    if options["format"] is None or target.exists():
        return
    preload(options["package"])
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}-{os.getpid()}")
    quantize = _quantize_call if options["package"] == "llama_cpp" else _quantize_program
    try:
        quantize(options, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _quantize_call(options: dict[str, Any], target: Path) -> None:
    api = import_module(API["llama_cpp"])
    params = api.llama_model_quantize_default_params()
    params.nthread = options["threads"]
    params.ftype = _FORMATS[options["format"]]
    params.allow_requantize = True
    source = os.fsencode(options["gguf"])
    if api.llama_model_quantize(source, os.fsencode(target), ctypes.byref(params)) != 0:
        raise RuntimeError(f"llama_model_quantize could not make {options['format']}")


def _quantize_program(options: dict[str, Any], target: Path) -> None:
    program = import_module("ik_llama_cpp.quantize").find_quantize_bin()
    if program is None:
        raise RuntimeError("ik-llama-cpp-python came without its llama-quantize program")
    command = [str(program), "--allow-requantize", options["gguf"], str(target)]
    command += [options["format"].upper(), str(options["threads"])]
    paths = [str(program.parent.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    subprocess.run(
        command, check=True, env=os.environ | {"LD_LIBRARY_PATH": ":".join(filter(None, paths))}
    )


def preload(package: str) -> None:
    """Load ik's libggml by its path: its libllama does not know where that lies."""
    if package != "ik_llama_cpp":
        return
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(folder, "lib").glob("libggml*")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def format_of(options: dict[str, Any]) -> tuple[str, bool]:
    """The weights as they are run, in words, and whether they are the file's own."""
    if options["format"] is None:
        return f"{options.get('file_format')} as in the file", True
    kind = options["format"].upper()
    return f"{kind}, requantized from the file's {options.get('file_format')}", False
