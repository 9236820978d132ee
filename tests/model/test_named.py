"""Names and files that are no model: both loaders refuse them, in one line that names them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit.errors import DeviceError, LabkitError, ModelError, ParameterError
from labkit.model.load import load
from labkit.optimize.fused import load_fused, native
from tests.conftest import make_reference
from tests.fused_helpers import SIZES, logits, tiny_gguf

IDS = list(range(3, 20))
Loader = Callable[[Any], Any]
LOADERS: dict[str, Loader] = {
    "plain": lambda name: load(name, "cpu"),
    "as-is": load_fused,
    "rounded": lambda name: load_fused(name, "q8_0"),
}
DIRECTORY_LOADERS = [LOADERS["plain"], LOADERS["rounded"]]
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    """Not in a test's own cache: to compile takes long."""
    native.library()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_reference("llama", **SIZES).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def refuses(call: Callable[[], object], words: str, kind: type[LabkitError] = ModelError) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("end", ["", ".gguf"])
@pytest.mark.parametrize(
    "name", ["~nobody-of-this-name/x", "x" * 5000, "é" * 3000, "a\0b", "o/" + "x" * 5000, "a" * 240]
)
def test_names_of_no_model(loader: Loader, name: str, end: str) -> None:
    refuses(lambda: loader(name + end), "no model at|no such file")


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_names_that_are_no_text(loader: Loader) -> None:
    for name in (5, [], 1.5, {}):
        refuses(lambda name=name: loader(name), "no model at")


def test_other_arguments_of_another_kind() -> None:
    for dtype in ([], None, 1.5, "x" * 10**5):
        refuses(lambda dtype=dtype: load(None, "cpu", dtype), "dtype .* is unknown", ParameterError)
    for device in ([], None, 5):
        refuses(lambda device=device: load(None, device), "device .* is unknown", DeviceError)
    for threads in (-1, 0, "2", 1.5, True, 10**9, []):
        refuses(
            lambda threads=threads: load_fused(None, threads=threads),
            "allowed are 1 to 512", ParameterError,
        )  # fmt: skip
    for isa in ([], None, 5, "avx3"):
        refuses(lambda isa=isa: load_fused(None, isa=isa), "instruction set .* is unknown")
    for weights in ([], None, "q9", "x" * 10**5):
        refuses(lambda weights=weights: load_fused(None, weights), "weights .*: allowed are as-is")


@pytest.mark.parametrize("loader", DIRECTORY_LOADERS)
def test_weights_that_cannot_be_read(directory: Path, loader: Loader) -> None:
    path = directory / "model.safetensors"
    whole = load_file(path)
    path.unlink()
    path.mkdir()
    refuses(lambda: loader(directory), "model.safetensors cannot be read")
    path.rmdir()
    path.symlink_to(directory / "gone")
    refuses(lambda: loader(directory), "model.safetensors cannot be read")
    path.unlink()
    (directory / "part.safetensors").mkdir()
    refuses(lambda: loader(directory), "part.safetensors cannot be read")
    index = directory / "model.safetensors.index.json"
    for name in ("x" * 5000, "a\0b", "..", "", "part.safetensors"):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(whole, name)}))
        refuses(lambda: loader(directory), "names '.*', which .* does not have")


@pytest.mark.parametrize("loader", DIRECTORY_LOADERS)
def test_an_error_of_reading_does_not_blame_the_cache(
    directory: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("safetensors.safe_open", fails)
    refuses(lambda: loader(directory), "model.safetensors cannot be read: Input/output error")


def replace_unseen(path: Path, change: Callable[[], None]) -> None:
    """Change a file, but neither its size nor its time of writing."""
    before = path.stat()
    time.sleep(0.02)  # longer than a tick of the clock that the system stamps with
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("loader", DIRECTORY_LOADERS)
def test_a_directory_that_changed_unseen(directory: Path, loader: Loader) -> None:
    found = logits(getattr(loader(directory), "decoder", None) or loader(directory), IDS)
    path = directory / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.up_proj.weight"] *= -1
    replace_unseen(path, lambda: save_file(weights, path, metadata={"format": "pt"}))
    model = loader(directory)
    again = logits(getattr(model, "decoder", model), IDS)
    assert not torch.equal(again, found)


def test_a_gguf_file_that_changed_unseen(tmp_path: Path) -> None:
    path, other = tmp_path / "tiny.gguf", tmp_path / "other.gguf"
    tiny_gguf(path, "llama", "F32")
    found = logits(load(path, "cpu").decoder, IDS)
    data = bytearray(path.read_bytes())
    data[-6:-4] = b"\x10\x3f"  # a weight of the last matrix
    other.write_bytes(data)
    replace_unseen(path, lambda: path.write_bytes(data))
    assert not torch.equal(logits(load(path, "cpu").decoder, IDS), found)
    assert torch.equal(
        logits(load(path, "cpu").decoder, IDS), logits(load(other, "cpu").decoder, IDS)
    )


@pytest.mark.parametrize("name", ["x" * 250, "é" * 125])
def test_names_as_long_as_a_file_system_takes(tmp_path: Path, name: str) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", "llama", "F32").rename(tmp_path / f"{name}.gguf")
    expected = logits(load(path, "cpu").decoder, IDS)
    found = logits(load_fused(path), IDS)
    assert (found - expected).abs().max() <= 6e-2 * expected.abs().max()
    made = load(path, "cpu").directory
    long = shutil.copytree(made, tmp_path / name)
    assert torch.equal(logits(load_fused(long, "q8_0"), IDS), logits(load_fused(made, "q8_0"), IDS))
