"""Workers of other engines: a crash, a hang, a wrong answer is told and ends that one alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from labkit.bench import client, install
from labkit.bench.client import Worker, WorkerError
from labkit.bench.variants import Variant, find
from labkit.errors import ParameterError
from labkit.timing.compare import compare
from labkit.timing.trace import Trace

DRIVER = """
import os, sys, time

class Engine:
    weight_bytes, kv_element_bytes, version = 1000, 2, "1.0"
    weights, same_weights = "float32", True

    def __init__(self, options):
        self.mode = options["mode"]
        if self.mode == "no memory":
            raise MemoryError("too large for this machine")

    def run(self, prompt, new_tokens, emit):
        if len(prompt) > 3:  # not the first call, which loading makes
            if self.mode == "crash":
                print("segmentation violation", file=sys.stderr, flush=True)
                os._exit(139)
            if self.mode == "hang":
                time.sleep(600)
            if self.mode == "short":
                new_tokens -= 1
        due = time.monotonic()
        print("a native library says something on stdout")
        for token in range(new_tokens):
            time.sleep(0.001)
            emit(token)
        return due
"""


def worker(folder: Path, mode: str) -> Worker:
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    script = Path(client.__file__).with_name("worker.py")
    command = [sys.executable, "-P", str(script), str(driver)]
    return Worker(Variant(mode, "driver"), command, dict(os.environ))


def loaded(folder: Path, mode: str) -> Worker:
    started = worker(folder, mode)
    told = started.load({"mode": mode}, [1, 2], timeout=60)
    assert (told.weight_bytes, told.version) == (1000, "1.0")
    return started


def test_a_run_has_its_tokens_and_times(tmp_path: Path) -> None:
    with loaded(tmp_path, "fine") as one:
        sample = one.run([1, 2, 3, 4], 5)
    assert sample.tokens == [0, 1, 2, 3, 4]
    assert sorted([sample.due, *sample.times]) == [sample.due, *sample.times]


def test_an_engine_that_cannot_load_says_why(tmp_path: Path) -> None:
    with worker(tmp_path, "no memory") as one, pytest.raises(WorkerError, match="too large for"):
        one.load({"mode": "no memory"}, [1, 2], timeout=60)


def test_a_crash_is_told_with_its_last_words(tmp_path: Path) -> None:
    said = "ended with code 139.*segmentation violation"
    with loaded(tmp_path, "crash") as one, pytest.raises(WorkerError, match=said):
        one.run([1, 2, 3, 4], 5)


def test_a_hang_is_ended(tmp_path: Path) -> None:
    with loaded(tmp_path, "hang") as one:
        with pytest.raises(WorkerError, match="no answer to 'run' within 1 s"):
            one.run([1, 2, 3, 4], 5, timeout=1)
        assert one._process.poll() is not None


def test_too_few_tokens_are_no_answer(tmp_path: Path) -> None:
    with loaded(tmp_path, "short") as one, pytest.raises(WorkerError, match="4 tokens came inst"):
        one.run([1, 2, 3, 4], 5)


def test_a_peer_that_crashes_is_a_failed_row_of_the_comparison(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with loaded(tmp_path / "a", "fine") as fine, loaded(tmp_path / "b", "crash") as crash:

        def turn(one: Worker) -> Trace:
            sample = one.run([1, 2, 3, 4], 5)
            return Trace(sample.due, tuple(sample.times), 4, tuple(sample.tokens))

        runs = {"fine": lambda number: turn(fine), "crash": lambda number: turn(crash)}
        result = compare(runs, "fine", 5)
    assert "segmentation violation" in result.failed["crash"]
    assert len(result.traces["fine"]) == 5
    assert "crash" not in result.traces


def test_leaving_a_worker_ends_its_process(tmp_path: Path) -> None:
    with loaded(tmp_path, "fine") as one:
        process = one._process
    assert process.wait(10) != 0


def test_unknown_and_repeated_variants_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"no variant .vllm.\. .labkit bench --variants list"):
        find(["vllm"])
    with pytest.raises(ParameterError, match=r"Did you mean fused:q8_0 or fused:q4_0\?") as told:
        find(["fused:q8_1"])
    assert len(str(told.value)) < 200
    with pytest.raises(ParameterError, match="named twice"):
        find(["fused", "fused"])


def test_what_is_not_installed_is_said_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_PEERS", str(tmp_path))
    with pytest.raises(WorkerError, match="is not installed; run `make peers`"):
        Worker.start(find(["llama.cpp"])[0], 1)


def test_the_pins_are_exact_and_their_build_flags_find_their_files() -> None:
    pins = install.read_pins()
    assert all("==" in package for pin in pins.values() for package in pin.packages)
    flags = install._build_environment(pins["ik_llama.cpp"])["CMAKE_ARGS"]
    included = next(flag for flag in flags.split() if "CMAKE_PROJECT_INCLUDE" in flag)
    assert Path(included.partition("=")[2]).is_file()


@pytest.mark.parametrize("last", [0, 1])
def test_what_a_peer_is_without_is_taken_out_again(
    last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], env: dict[str, str], log: Path, title: str) -> int:
        ran.append(command)
        log.write_text("no such package")
        return last if "uninstall" in command else 0

    monkeypatch.setenv("LABKIT_PEERS", str(tmp_path))
    monkeypatch.setattr(install, "_run", run)
    monkeypatch.setattr(install.venv, "create", lambda *_, **__: None)
    pin = install.Pin("some", ("a==1",), without=("b",))
    if last:
        with pytest.raises(install.InstallError, match="no such package"):
            install.install(pin)
    else:
        install.install(pin)
    assert [("install" in command, command[-1]) for command in ran] == [
        (True, "a==1"),
        (False, "b"),
    ]
    assert (tmp_path / "some" / install._STAMP).exists() == (not last)


def test_an_unknown_peer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main(["vllm"]) == 2
    assert "no peer 'vllm'; known: llama.cpp" in capsys.readouterr().err


def test_a_build_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    with pytest.raises(install.InstallError, match="no C\\+\\+ compiler is here"):
        install.check_tools(install.read_pins()["llama.cpp"])
