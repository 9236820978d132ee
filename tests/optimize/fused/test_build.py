"""Packing by hand, formats refused, and everything that can go wrong with a compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.base.native import compiler
from labkit.base.paths import project_root
from labkit.errors import ModelError, ParameterError
from labkit.model.load import load
from labkit.model.rows import Rows
from labkit.optimize.fused import FusedDecoder, FusedError, available, load_fused, native
from labkit.optimize.fused.pack import FORMATS, interleave
from labkit.optimize.fused.weights import packed
from tests.conftest import make_reference
from tests.fused_helpers import tiny_gguf


def test_interleaving_by_hand():
    blocks = np.arange(2 * 1 * 18, dtype=np.uint8).reshape(2, 1, 18)
    made = np.zeros(16 * 18, dtype=np.uint8)
    interleave(native.library(), blocks, FORMATS["q4_0"], made.ctypes.data, made.size)
    assert made[:6].tolist() == [0, 1, 18, 19, 0, 0]  # scales of rows 0 and 1, then of none
    assert made[32:44].tolist() == [2, 3, 4, 5, 20, 21, 22, 23, 0, 0, 0, 0]  # four bytes a row
    assert made[96:104].tolist() == [6, 7, 8, 9, 24, 25, 26, 27]


def kept_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "kept" / "fused").iterdir()
    return folder


def ids_logits(decoder):
    return decoder(Rows.prefill(range(3, 9)), decoder.new_cache(1, 8))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_rounded_weights_are_kept_and_made_again_where_they_are_damaged(
    directory, tmp_path, damage, capsys
):
    first = ids_logits(load_fused(directory, "q8_0"))
    assert torch.equal(ids_logits(load_fused(directory, "q8_0")), first)
    assert capsys.readouterr().out.count("Rounding") == 1
    path = kept_folder(tmp_path) / "weights.bin"
    data = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    elif damage == "foreign":
        (path.parent / "kept.json").write_text('{"made_from": "another", "files": {}}')
    else:
        path.write_bytes(data[:1000] if damage == "cut" else b"")
    assert torch.equal(ids_logits(load_fused(directory, "q8_0")), first)
    assert "made again" in capsys.readouterr().out


@pytest.mark.usefixtures("own_cache")
def test_rounded_weights_follow_the_config(directory):
    first = ids_logits(load_fused(directory, "q8_0"))
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    raw["rope_parameters"]["rope_theta"] *= 7
    path.write_text(json.dumps(raw))
    changed = ids_logits(load_fused(directory, "q8_0"))
    assert not torch.equal(changed, first)
    assert (changed - ids_logits(load(directory, "cpu").decoder)).abs().max() < 0.5


@pytest.mark.usefixtures("own_cache")
def test_what_the_kernel_does_not_serve_is_named(tmp_path, directory):
    odd = tmp_path / "odd"
    make_reference("llama").save_pretrained(odd)  # 48 wide
    with pytest.raises(FusedError, match="hidden size that 32 divides"):
        packed(odd, "q8_0")
    with pytest.raises(FusedError, match="choose q8_0"):
        packed(odd)
    with pytest.raises(FusedError, match="'q5_1': allowed are as-is(.*)q4_1"):
        packed(odd, "q5_1")
    assert load_fused(directory, "q4_0").formats == ["q4_0", "q8_0"]
    with pytest.raises(ModelError, match="no such file"):
        load_fused(tmp_path / "none.gguf")


@pytest.mark.usefixtures("own_cache")
def test_a_cut_gguf_file_leaves_nothing_behind(tmp_path):
    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    load_fused(file)
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(ModelError, match="cut short"):
        load_fused(file)
    assert not (tmp_path / "kept" / "fused").exists()


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
        env=env, cwd=project_root(), capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "sanitized: 15 formats" in done.stdout


@pytest.mark.usefixtures("own_cache", "fresh_library")
@pytest.mark.parametrize("content", [b"", b"no library", None])
def test_a_damaged_library_is_compiled_again(monkeypatch, tmp_path, content, capsys):
    monkeypatch.setattr(native, "SOURCE", tmp_path / "source")  # one that is compiled at once
    native.SOURCE.mkdir()
    (native.SOURCE / "kernel.cpp").write_text("int nothing() { return 0; }")
    path = native.build()
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if content is None else content)
    assert native.build() == path
    assert len(path.read_bytes()) == len(whole)
    assert "made again" in capsys.readouterr().out


@pytest.mark.parametrize("threads", [0, -1, 513, 3000])
def test_numbers_of_threads_that_cannot_be(threads, tmp_path):
    packed_for_one = packed(tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1"), threads=1)
    packed_for_one.threads = threads
    with pytest.raises(ParameterError, match=f"threads {threads}: allowed are 1 to 512"):
        FusedDecoder(packed_for_one)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own(tmp_path):
    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    code = (
        "import os, signal, sys, torch\n"
        "from labkit.model.rows import Rows\n"
        "from labkit.optimize.fused import load_fused\n"
        f"fused = load_fused({str(file)!r}, threads=2)\n"
        "def answer():\n"
        "    return fused(Rows.prefill(range(3, 9)), fused.new_cache(1, 8)).tolist()\n"
        "here, child = answer(), os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"
        "    sys.exit(0 if answer() == here else 1)\n"
        "_, status = os.waitpid(child, 0)\n"
        "assert answer() == here\n"
        "sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    env = os.environ | {"PYTHONPATH": str(project_root())}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
