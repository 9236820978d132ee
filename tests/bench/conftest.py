"""Fake engines that can be imported, and engines made over them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.bench import worker
from tests.bench.engines import FAKES, PROJECTS, driver_of, options_of


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The toy model; the fake engines are importable, each with a version of its project."""
    for project in PROJECTS:
        info = tmp_path / f"{project.replace('-', '_')}-0.7.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 0.7\n")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKES), str(tmp_path)]))
    yield importlib.import_module("toy")
    for name in set(sys.modules) - before:
        if str(FAKES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def load(toy: Any, tmp_path: Path) -> Callable[..., Any]:
    """Makes an engine by name, as a worker does."""

    def made(name: str, **changes: Any) -> Any:
        driver = worker.load_driver(str(driver_of(name)))
        options = options_of(name, tmp_path, **changes)
        driver.prepare(options)
        return driver.Engine(options)

    return made
