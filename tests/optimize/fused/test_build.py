"""Packing by hand, formats refused, and everything that can go wrong with a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.base.native import compiler
from labkit.base.paths import project_root
from labkit.errors import ModelError
from labkit.optimize.fused import FusedError, available, load_fused, native
from labkit.optimize.fused.pack import FORMATS, from_blocks, interleave, to_blocks
from labkit.optimize.fused.weights import packed, read
from tests.conftest import make_reference
from tests.fused_helpers import SIZES, tiny_gguf


def test_interleaving_by_hand():
    form = FORMATS["q4_0"]
    blocks = np.arange(2 * 1 * 18, dtype=np.uint8).reshape(2, 1, 18)
    made = interleave(blocks, form)[0, 0]
    assert made.size == 16 * 18
    assert made[:6].tolist() == [0, 1, 18, 19, 0, 0]  # scales of rows 0 and 1, then of none
    assert made[32:44].tolist() == [2, 3, 4, 5, 20, 21, 22, 23, 0, 0, 0, 0]  # four bytes a row
    assert made[96:104].tolist() == [6, 7, 8, 9, 24, 25, 26, 27]


@pytest.mark.parametrize("name", FORMATS)
def test_every_weight_is_kept_to_the_bit(name):
    torch.manual_seed(0)
    form, weight = FORMATS[name], torch.randn(20, 96).numpy()
    blocks = to_blocks(weight, form)
    made = interleave(blocks, form)
    assert made.shape == (2, 3, 16 * form.nbytes)
    assert np.abs(from_blocks(blocks, form) - weight).max() < 0.5
    flip = 128 if name == "q8_0" else 0  # signed -> value + 128
    for row, block in ((0, 0), (3, 2), (17, 1)):
        lanes, lane = made[row // 16, block], row % 16
        scales = lanes[: 16 * form.scales].reshape(-1, 16, 2)[:, lane].ravel()
        fifths = 4 if name == "q5_0" else 0
        quads = lanes[16 * form.scales :][: 16 * (form.nbytes - form.scales - fifths)]
        quads = quads.reshape(-1, 16, 4)[:, lane].ravel()
        assert np.array_equal(scales, blocks[row, block, : form.scales])
        assert np.array_equal(quads, blocks[row, block, form.scales + fifths :] ^ flip)
        if fifths:
            own = lanes[-64:].reshape(16, 4)[lane]
            bits = [own[column % 4] >> column // 4 & 1 for column in range(32)]
            held = np.packbits(bits, bitorder="little")
            assert np.array_equal(held, blocks[row, block, 2:6])
    assert not made[1, :, : 16 * form.scales].reshape(3, -1, 16, 2)[:, :, 4:].any()


@pytest.mark.usefixtures("own_cache")
def test_weights_are_packed_once_and_damage_is_told(tmp_path):
    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    first = packed(file)
    assert packed(file).entries == first.entries
    folder = next((tmp_path / "kept" / "fused").iterdir())
    with (folder / "weights.bin").open("r+b") as opened:
        opened.truncate(1000)
    with pytest.raises(FusedError, match="cut short"):
        read(folder)


@pytest.mark.usefixtures("own_cache")
def test_what_the_kernel_does_not_serve_is_named(tmp_path):
    odd = tmp_path / "odd"
    make_reference("llama").save_pretrained(odd)  # 48 wide
    with pytest.raises(FusedError, match="hidden size that 32 divides"):
        packed(odd, "q8_0")
    with pytest.raises(FusedError, match="choose q8_0"):
        packed(odd)
    with pytest.raises(FusedError, match="Q5_1 is not supported(.*)Q4_1"):
        packed(odd, "q5_1")
    fits = tmp_path / "fits"
    make_reference("llama", **SIZES).save_pretrained(fits)
    assert load_fused(fits, "q4_0").formats == ["q4_0", "q8_0"]
    halves = tiny_gguf(tmp_path / "f16.gguf", "llama", "F16")
    with pytest.raises(FusedError, match="F16 is not supported"):
        load_fused(halves)
    with pytest.raises(FusedError, match="no such file"):
        load_fused(tmp_path / "none.gguf")


@pytest.mark.usefixtures("own_cache")
def test_a_cut_gguf_file_leaves_nothing_behind(tmp_path):
    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    load_fused(file)
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(ModelError, match="cut short"):
        load_fused(file)
    assert len(list((tmp_path / "kept" / "fused").iterdir())) == 1


@pytest.fixture
def fresh_library():
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def fake_compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("own_cache", "fresh_library")
def test_a_missing_compiler_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert "needs a C++ compiler" in str(available())
    assert "g++ or clang" in str(available())


@pytest.mark.usefixtures("own_cache", "fresh_library")
def test_a_broken_compiler_speaks_for_itself(monkeypatch, tmp_path):
    broken = fake_compiler(tmp_path / "c++", "echo 'cannot execute cc1plus' >&2; exit 1")
    monkeypatch.setenv("CXX", broken)
    with pytest.raises(FusedError, match="cannot execute cc1plus"):
        native.library()
    assert not list((tmp_path / "kept" / "kernels").iterdir())


@pytest.mark.usefixtures("own_cache")
def test_another_processor_makes_its_own_library(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "SOURCE", tmp_path / "source")  # one that is compiled at once
    native.SOURCE.mkdir()
    (native.SOURCE / "kernel.cpp").write_text("int nothing() { return 0; }")
    here = native.build()
    assert native.build() == here
    monkeypatch.setattr("labkit.base.native.cpu_features", lambda: "an older processor")
    assert native.build() != here


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(FusedError, match="portable"):
        native.build("mmx")


def _sanitizer() -> str | None:
    """The address sanitizer's runtime, for the compiler that builds the kernel."""
    command = compiler()
    if command is None or sys.platform != "linux":
        return None
    found = subprocess.run(
        [command, "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    return found if os.path.isabs(found) else None


@pytest.mark.skipif(_sanitizer() is None, reason="no address sanitizer beside the compiler")
def test_no_memory_error_and_no_undefined_behaviour(tmp_path):
    """All formats, threads, long prompts and refusals, under AddressSanitizer and UBSan."""
    env = os.environ | {
        "LD_PRELOAD": str(_sanitizer()),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(project_root()),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.sanitized", tmp_path],
        env=env, cwd=project_root(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "sanitized: 4 formats" in done.stdout
