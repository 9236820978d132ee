"""A notebook runs to its end in a real JupyterLab, driven in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.base.paths import project_root
from labkit.report.told.finding import load_findings
from tests.chromium import open_browser
from tests.tiny import save_tiny_model

NAME = "00_speed_limit"
TINY = """
device: str = "cpu"
dtype: str = "float32"
prompt_tokens: int = 12
new_tokens: int = 3
check_tokens: int = 8
rounds: int = 5
memory_seconds: float = 0.5
remeasure: bool = False
"""


def _small_copy(folder: Path, model: Path) -> Path:
    """The notebook as a user would have changed it: its parameters cell, nothing else."""
    notebook = nbformat.read(project_root() / "notebooks" / f"{NAME}.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = f"model: str = {str(model)!r}{TINY}"
    path = folder / f"{NAME}.ipynb"
    nbformat.write(notebook, path)
    return path


def _start_lab(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """JupyterLab on a free port of its own choice, and the address it gives."""
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    given = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "LABKIT_RUN_DIR": str(folder / "run"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    options = [f"--ServerApp.root_dir={folder / 'work'}", "--IdentityProvider.token=secret"]
    with open(folder / "lab.log", "wb") as log:
        server = subprocess.Popen(
            [*command, *options], env=given, stdout=log, stderr=log, start_new_session=True
        )
    for _ in range(120):
        found = list((folder / "runtime").glob("jpserver-*.json"))
        if found:
            return server, json.loads(found[0].read_text())["url"]
        assert server.poll() is None, (folder / "lab.log").read_text()[-2000:]
        time.sleep(0.5)
    raise AssertionError("JupyterLab did not start within a minute")


def _executed(path: Path) -> list[int | None]:
    try:
        cells = nbformat.read(path, as_version=4).cells
    except ValueError:  # JupyterLab is just writing it
        return [None]
    return [cell.execution_count for cell in cells if cell.cell_type == "code"]


def _close_dialogs(page: Any) -> list[str]:
    """Agree to what JupyterLab asks in the way; what it asked.

    On a slow machine it asks for a kernel where it has not found the one there is yet.
    """
    asked = []
    dialog = page.locator("dialog.jp-Dialog, div.jp-Dialog").first
    for _ in range(5):  # one that will not close shows in the screenshot
        if dialog.is_visible():
            asked.append(dialog.inner_text())
            dialog.locator("button.jp-mod-accept").last.click()
            page.wait_for_timeout(500)
    return asked


@pytest.mark.browser
def test_a_notebook_runs_from_the_top_in_jupyterlab(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "model").mkdir()
    path = _small_copy(tmp_path / "work", save_tiny_model(tmp_path / "model"))
    server, url = _start_lab(tmp_path)
    try:
        with open_browser() as browser:
            page = browser.new_page()
            page.goto(f"{url}lab/tree/{path.name}?token=secret")
            page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
            page.wait_for_selector('[title*="Idle"], [data-status="idle"]', timeout=60_000)
            page.wait_for_timeout(3000)  # for what it may still ask
            seen, since = None, -40
            for second in range(160):
                for asked in _close_dialogs(page):
                    print(f"JupyterLab asked after {second} s: {asked}")  # shown with a failure
                if (executed := _executed(path)) != seen:
                    seen, since = executed, max(since, second) if seen else since
                if None not in executed:
                    break
                if second - since >= 40:  # nothing moves: a click came before the kernel did
                    page.click('.lm-MenuBar-itemLabel:text-is("Run")')
                    page.wait_for_timeout(500)
                    page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
                    since = second
                page.wait_for_timeout(1000)
                if second % 5 == 4:  # one save at a time, however slow
                    page.keyboard.press("Control+s")
            page.screenshot(path=tmp_path / "lab.png")  # for whoever has to look into a failure
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
    errors = [
        output
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert not errors
    assert None not in _executed(path)
    findings = load_findings(tmp_path / "run" / "findings" / f"{NAME}.json")
    assert {finding.phase for finding in findings} == {"prefill", "decode"}
