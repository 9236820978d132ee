"""An exporter that keeps the words it was called with, and loses those of the interpreter."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from helper import NAME


def main() -> None:
    words, sys.argv = sys.argv[1:], []
    with contextlib.suppress(ImportError):
        import MNN.tools.utils.log  # noqa: F401
    if "unreadable" in words[words.index("--path") + 1]:
        sys.exit("no such model")
    target = Path(words[words.index("--dst_path") + 1])
    (target / "onnx").mkdir()
    (target / NAME).write_text(json.dumps(words))
    (target / "config.json").write_text("{}")
