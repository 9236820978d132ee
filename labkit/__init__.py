"""A workbench for the limit speed of LLM inference.

Two calls stand here, each made of what lies below. `labkit.fastest()` answers prompts by the
fastest path that this machine has. `labkit.compare(["fused", "llama.cpp"])` measures engines beside
each other. Importing labkit imports neither: torch alone takes seconds.
"""

from importlib import import_module
from typing import Any

# From a name to the module within labkit that has it. No module's whole name is written here: code
# that only imports labkit reaches none of them, and a run repeats no notebook where they change
# (labkit/report/runs/reach.py). A notebook that calls one imports its module by name.
_FROM = {"fastest": "fast.session", "compare": "bench.beside"}


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM})
