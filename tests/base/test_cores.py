"""Cores that are given: quotas of control groups, bindings, and wishes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit.base import cores as module
from labkit.base.cores import Cores, cores, quota, unbound


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_a_quota_of_version_2_is_the_least_of_all_groups_above(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/pods/mine\n")
    group(tmp_path / "groups", cpu__max="max 100000\n")
    group(tmp_path / "groups/pods", cpu__max="150000 100000\n")
    group(tmp_path / "groups/pods/mine", cpu__max="max 100000\n")
    assert quota(tmp_path / "groups", own) == 1.5
    group(tmp_path / "groups/pods/mine", cpu__max="50000 100000\n")
    assert quota(tmp_path / "groups", own) == 0.5


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/mine\n3:cpu,cpuacct:/mine\n")
    folder = group(
        tmp_path / "groups/cpu/mine", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000"
    )
    assert quota(tmp_path / "groups", own) is None
    group(folder, cpu__cfs_quota_us="250000")
    assert quota(tmp_path / "groups", own) == 2.5


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "1 2 3", "100000 0", "max", "-5 100000", "5 -1", "0 1", "9" * 400 + " 1"],
)
def test_what_cannot_be_read_is_no_quota(tmp_path: Path, text: str) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    group(tmp_path / "groups", cpu__max=text)
    assert quota(tmp_path / "groups", own) is None
    assert quota(tmp_path / "groups", tmp_path / "none") is None


@pytest.mark.parametrize("line", [b"", b"nonsense", b"0:", b":", b"\x00", b"0::/\xff\xfe", b"0::"])
def test_groups_that_no_system_names_are_passed_over(tmp_path: Path, line: bytes) -> None:
    own = tmp_path / "cgroup"
    group(tmp_path / "groups/mine", cpu__max="150000 100000\n")
    own.write_bytes(line + b"\n")
    assert quota(tmp_path / "groups", own) is None
    own.write_bytes(line + b"\n0::/mine\n")
    assert quota(tmp_path / "groups", own) == 1.5


@pytest.mark.parametrize(
    ("found", "given"),
    [
        (Cores(8, None, "", None, 0), 8),
        (Cores(2, 0.5, "", None, 0), 1),
        (Cores(8, 2.9, "", None, 0), 2),
        (Cores(8, 6.0, "", 3, 0), 3),
        (Cores(2, None, "", 16, 0), 2),
    ],
)
def test_threads_that_can_run_all_the_time(found: Cores, given: int) -> None:
    assert found.given == given
    assert found.describe()["given"] == given


@pytest.mark.parametrize(("text", "wanted"), [("3", 3), ("4,2", 4), ("0", None), ("x", None)])
def test_the_threads_that_openmp_is_told_to_take(
    monkeypatch: pytest.MonkeyPatch, text: str, wanted: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cores().wanted == wanted


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_a_bound_thread_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.sched_getaffinity(0)
    one = {min(here)}
    monkeypatch.setattr(module, "_AT_START", frozenset({*here, 97}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: one)
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert cores().affinity == len({*here, 97})
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    assert cores().affinity == 1  # the user's own choice


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_threads_started_unbound_have_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.sched_getaffinity(0)
    if len(here) < 2:
        pytest.skip("one core")
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    try:
        os.sched_setaffinity(0, {min(here)})
        with unbound():
            assert os.sched_getaffinity(0) == here
        assert os.sched_getaffinity(0) == {min(here)}
    finally:
        os.sched_setaffinity(0, here)
