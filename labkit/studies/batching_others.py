"""Other engines beside ours in notebook 07, each asked several prompts at the same moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labkit.bench.asked import Asked
from labkit.bench.client import Source
from labkit.bench.many import measure
from labkit.bench.points import Many
from labkit.bench.variants import runnable
from labkit.report.told.finding import Finding
from labkit.report.told.words import percent
from labkit.studies.lab import Lab
from labkit.studies.the_limit_variants import engine
from labkit.timing.compare import Comparison

OURS = "fused:engine"  # reads the file as it is, and answers every request with an engine of 07
# Engines that can serve several sequences. llama.cpp also in q4_0: its best format of that size.
PEERS = (
    *("llama.cpp", "llama.cpp:q4_0", "ik_llama.cpp"),
    *("onnxruntime-genai:int4", "openvino-genai:int4"),
)
NONE = (
    "No other engine ran beside ours: `make peers` installs them, they need a GGUF file, and the "
    "parameter `peers` leaves them out."
)
_NOTE = "what other engines read and compute in a pass of several requests is not known"


def installed(where: Source) -> list[str]:
    """Ours and the other engines that can run here; none where one of the two is missing."""
    ours, peers = runnable((OURS,), bool(where.gguf)), runnable(PEERS, bool(where.gguf))
    return ours + peers if where.gguf and ours and peers else []


def others(lab: Lab, where: Source, asked: Asked) -> Many | None:
    """All of them interleaved, each in a process of its own; None where none is installed."""
    names = installed(where)
    if not names:
        return None
    found = measure(names, where, asked, lab.hardware.threads)
    lab.keep_samples("others", found.comparison.to_dict() | {
        "answers": {name: one.to_dict() for name, one in found.answers.items()}
    })  # fmt: skip
    lab.noted(found.comparison, "other engines", apart=True)
    return found


def of_others(found: Many) -> str:
    """How the engine does against each other one where that makes the most tokens a second."""
    at = max(found.asked.streams)
    parts = []
    for name in found.engines[1:]:
        if (most := found.best(name)) and (over := found.over((OURS, at), (name, most))):
            parts.append(f"{over} of {name} with {most}")
    if not parts or found.engines[0] != OURS:
        return "No other engine ran beside ours to the end."
    return (
        f"Output tokens/s of our engine with {at} prompts at once, over those of each other "
        f"engine with the number of prompts that suits it best: {'; '.join(parts)}."
    )


def of_distinct(found: Many) -> str:
    """How many answers each engine gave to one prompt, depending on what was asked beside it."""
    parts = [
        f"{name} {max(one.distinct)}, {percent(one.distinct.count(1) / len(one.distinct))} of the "
        "prompts with one answer"
        for name, one in found.answers.items()
    ]
    return f"Distinct answers to one prompt, at most: {'; '.join(parts)}."


def findings(lab: Lab, found: Many) -> list[Finding]:
    """Each other engine against ours, at each number of prompts."""
    if found.engines[0] != OURS:
        return []
    compared = {streams: found.at(streams) for streams in found.asked.streams}
    return [
        _finding(lab, found, comparison, name, streams)
        for streams, comparison in compared.items()
        if comparison is not None
        for name in found.engines[1:]
        if name in comparison.traces
    ]


def _finding(lab: Lab, found: Many, comparison: Comparison, name: str, streams: int) -> Finding:
    asked = found.asked
    workload: dict[str, Any] = {
        "streams": streams, "prompt_tokens": asked.prompt_tokens, "new_tokens": asked.new_tokens,
    }  # fmt: skip
    one = lab.finding(
        comparison, name, phase="end_to_end", metric="output_throughput", limit_note=_NOTE,
        workload=workload, weights=found.loaded[name].weights,
        engine=engine(name, found.loaded[name]),
    )  # fmt: skip
    at = f"{streams} at once"
    return replace(one, variant=f"{name}, {at}", baseline=f"{OURS}, {at}")
