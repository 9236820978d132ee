"""A model builder that keeps the words it was called with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

words = sys.argv[1:]
if "unreadable" in words[words.index("-i") + 1]:
    sys.exit("no such model")
target = Path(words[words.index("-o") + 1])
(target / "work").mkdir()
(target / "model.onnx").write_text(json.dumps(words))
(target / "genai_config.json").write_text(json.dumps({"model": {"vocab_size": 50}}))
