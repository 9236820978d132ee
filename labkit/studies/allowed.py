"""Which values the parameters of the notebooks may have: checked before anything runs.

`labkit reports` checks those of every notebook before the first one starts, and each study its own
before it loads a model. What depends on the model is checked as soon as it is known. torch is not
imported here, so that a wrong value is refused at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from labkit.base.units import shown
from labkit.errors import ParameterError
from labkit.studies.allowed_values import TEXT, TRUTH, Allowed, above, count, one_of, some
from labkit.workload.texts import most_tokens

Values = Mapping[str, Any]
# As the routines have them; a test holds them equal, for these import torch or scipy.
ROUNDS = 5  # timing.statistics.FEWEST_ROUNDS
BITS = (2, 3, 4, 5, 6, 8)  # optimize.quantization.grid.BITS
METHODS = ("rtn", "hqq", "symmetric", "gptq")  # optimize.quantization.METHODS
CALIBRATED = ("gptq",)  # optimize.quantization.decoder.CALIBRATED: not for mixtures of experts
ENGINES = ("torch", "torchao", "fused")  # quantization_variants.ENGINES
SERIES = 25  # timing.FEWEST_IN_SERIES
BLOCK = 16  # model.cache.paged.BLOCK_SIZE
LOADS = (  # caching_loads.LOADS
    "shared system prompt", "chats", "repeated questions", "reasoning pipeline",
    "replay of a trace",
)  # fmt: skip
LONGEST_ANSWER = 16  # max(timing.LENGTHS)
LEAST_ANSWER = 8  # speculative_tasks: shorter answers are left out
SLOTS, REQUESTS = 256, 900  # of one cache; batching_workloads.A_ROUND has room for so many prompts
MEDIANS, BESIDE, AFTER = 8, 64, 5  # the longest answer; tokens of one beside a long prompt, its own
TASKS, CALIBRATION, HUMAN_EVAL = 6, 12, 164  # of each kind: held out, others; of HumanEval


class Model(NamedTuple):
    """What the values depend on: the longest context, the inputs of each kind of matrix, and how
    many tokens of text there are of a purpose, by part. experts: a mixture of them."""

    context: int
    inputs: tuple[int, ...]
    text: Callable[[str], Mapping[str, int]]
    experts: bool = False


def model_of(config: Values, text: Callable[[str], Mapping[str, int]]) -> Model:
    """From the fields of a ModelConfig; text: purpose -> `workload.texts.lengths`."""
    attention = config["heads"] * config["head_dim"]
    experts = config["experts"]
    inner = [experts["size"]] if experts else []
    if not experts or len(experts["layers"]) < config["layers"]:
        inner.append(config["intermediate_size"])
    inputs = tuple(dict.fromkeys((config["hidden_size"], *inner, attention)))
    return Model(config["max_positions"], inputs, text, experts is not None)


class Fault(NamedTuple):
    """Parameters whose values do not fit the model or each other, and what is allowed."""

    parameters: tuple[str, ...]
    allowed: str


_OF_THE_RUN = {"model": TEXT, "device": TEXT, "dtype": TEXT}  # checked where they are looked up
_TIMED = _OF_THE_RUN | {"prompt_tokens": count(1), "new_tokens": count(2), "rounds": count(ROUNDS)}

# By notebook and parameter: values that are possible with some model.
ALLOWED: dict[str, dict[str, Allowed]] = {
    "00_speed_limit": _TIMED
    | {"check_tokens": count(1), "memory_seconds": above(0, 86_400), "remeasure": TRUTH},
    "01_timing": _TIMED | {"series": count(SERIES), "slowdown": above(0, 100)},
    "02_kv_cache": _TIMED
    | {
        "check_tokens": count(1),
        "contexts": some(count(1)),
        "longest_without": count(0),
        "curve_rounds": count(ROUNDS),
        "window": count(1),
        "quality_tokens": count(2),
    },
    "03_graph_rewriting": _TIMED
    | {"check_tokens": count(1), "prefill_tokens": count(1), "compiled": TRUTH},
    "04_quantization": _TIMED
    | {
        "check_tokens": count(1),
        "bits": one_of(*BITS),
        "group": count(1),
        "methods": some(one_of(*METHODS)),
        "engines": some(one_of(*ENGINES)),
        "calibration_tokens": count(1),
        "quality_tokens": count(2),
        "other_tokens": count(1),
        "piece_tokens": count(2),
        "long_context": count(0),
        "questions": count(0),
    },
    "05_speculative": _OF_THE_RUN
    | {
        "new_tokens": count(LEAST_ANSWER),
        "tasks_a_kind": count(1, TASKS),
        "calibration_tasks": count(1, CALIBRATION),
        "length": count(1),
        "rows": some(count(1)),
        "context": count(0),
        "row_rounds": count(2),
        "kept_layers": above(0, 1),
        "rounds": count(ROUNDS),
        "outside_tasks": count(0, HUMAN_EVAL - CALIBRATION),
        "compare_transformers": TRUTH,
        "peers": TRUTH,
    },
    "06_caching": _OF_THE_RUN
    | {
        "new_tokens": count(2),
        "prefixes": some(count(BLOCK)),
        "own_tokens": count(1),
        "rounds": count(ROUNDS),
        "workloads": some(one_of(*LOADS)),
        "load_rounds": count(ROUNDS),
        "requests": count(2),
        "slots": count(1, 256),
        "zero_tokens": count(BLOCK),
        "zero_rounds": count(ROUNDS),
        "near_questions": count(0),
        "thresholds": some(above(0, 1)),
    },
    "07_batching": _TIMED
    | {
        "slots": count(2, SLOTS),
        "requests": count(2, REQUESTS),
        "batches": some(count(2, SLOTS)),
        "check_answers": count(2, REQUESTS),
        "median": count(2),
        "long_prompt": count(1),
        "loads": some(above(0, 100)),
        "slo_ttft": above(0, 86_400),
        "slo_tpot": above(0, 86_400),
        "peers": TRUTH,
    },
    "15_the_limit": _TIMED
    | {
        "peers": TRUTH,
        "quality_tokens": count(4),
        "questions": count(0),
        "row_counts": some(count(1)),
        "long_context": count(0),
    },
}


def _too_long(model: Model, tokens: int, *parameters: str) -> Iterator[Fault]:
    if tokens > model.context:
        told = f"{model.context:,} tokens, the model's context; here a sequence has {tokens:,}"
        yield Fault(parameters, told)


def _too_much(
    model: Model, purpose: str, tokens: int, length: int, *parameters: str
) -> Iterator[Fault]:
    """Faults where there is less text than is asked for, in pieces of a length."""
    most = most_tokens(model.text(purpose), length)
    if -(-tokens // length) * length > most:
        told = (
            f"at most {most:,} tokens: the text for {purpose} has no more in pieces of {length:,}"
        )
        yield Fault(parameters, told)


def _timed(v: Values, model: Model, *checked: str) -> Iterator[Fault]:
    """What every comparison needs: a prompt and an answer within the context."""
    names = ("new_tokens", *checked)
    most = max(v[name] for name in names)
    yield from _too_long(model, v["prompt_tokens"] + most, "prompt_tokens", *names)


def _speed_limit(v: Values, model: Model) -> Iterator[Fault]:
    yield from _timed(v, model, "check_tokens")


def _timing(v: Values, model: Model) -> Iterator[Fault]:
    longest = v["prompt_tokens"] + max(v["new_tokens"], LONGEST_ANSWER)
    yield from _too_long(model, longest, "prompt_tokens", "new_tokens")


def _kv_cache(v: Values, model: Model) -> Iterator[Fault]:
    steps = max(v["new_tokens"], v["check_tokens"], 8)  # 8: of the earlier steps on another text
    longest = max(*v["contexts"], v["prompt_tokens"])
    names = ("contexts", "prompt_tokens", "new_tokens", "check_tokens")
    yield from _too_long(model, longest + steps, *names)


def _graph_rewriting(v: Values, model: Model) -> Iterator[Fault]:
    yield from _timed(v, model, "check_tokens")
    checked = max(v["new_tokens"], v["check_tokens"])
    yield from _too_long(
        model, v["prefill_tokens"] + checked, "prefill_tokens", "new_tokens", "check_tokens"
    )


def _quantization(v: Values, model: Model) -> Iterator[Fault]:
    if undivided := [size for size in model.inputs if size % v["group"]]:
        told = f"divisors of the input sizes of all matrices, {', '.join(map(str, model.inputs))}"
        yield Fault(("group",), f"{told}; {v['group']} does not divide {undivided[0]}")
    if model.experts and set(v["methods"]) & set(CALIBRATED):
        told = ", ".join(name for name in METHODS if name not in CALIBRATED)
        yield Fault(("methods",), f"{told}, for this is a mixture of experts")
    yield from _timed(v, model, "check_tokens")
    piece, answer = v["piece_tokens"], max(v["new_tokens"], v["check_tokens"])
    yield from _too_long(model, piece + v["long_context"] + answer, "piece_tokens", "long_context")
    pieces = (("calibration", "calibration_tokens"), ("evaluation", "quality_tokens"))
    for purpose, name in pieces:
        yield from _too_much(model, purpose, v[name], piece, name, "piece_tokens")
    if v["long_context"]:
        whole = piece + v["long_context"]
        yield from _too_much(model, "evaluation", whole, whole, "piece_tokens", "long_context")
    earlier = (max(ROUNDS, v["rounds"] // 2) + 1) * v["prompt_tokens"]
    yield from _too_much(
        model, "calibration", earlier, v["prompt_tokens"], "rounds", "prompt_tokens"
    )


def _speculative(v: Values, model: Model) -> Iterator[Fault]:
    half = model.context // 2  # the other half is for the tasks' prompts
    if v["new_tokens"] > half:
        yield Fault(("new_tokens",), f"at most {half:,}, half of the model's context")
    if max(*v["rows"], v["length"] + 1) > half:
        told = f"passes of at most {half:,} rows, half of the model's context"
        yield Fault(("rows", "length"), told)


def _caching(v: Values, model: Model) -> Iterator[Fault]:
    names = ("prefixes", "own_tokens", "new_tokens")
    yield from _too_long(model, max(v["prefixes"]) + v["own_tokens"] + v["new_tokens"], *names)
    yield from _too_long(model, v["zero_tokens"] + v["new_tokens"], "zero_tokens", "new_tokens")


def _batching(v: Values, model: Model) -> Iterator[Fault]:
    yield from _timed(v, model)
    most = max(MEDIANS * v["median"], BESIDE)
    yield from _too_long(model, v["prompt_tokens"] + most, "prompt_tokens", "median")
    yield from _too_long(model, v["long_prompt"] + AFTER, "long_prompt")
    if (rows := max(*v["batches"], v["slots"])) > model.context // 2:
        told = f"at most {model.context // 2:,}, half of the model's context; here {rows:,}"
        yield Fault(("batches", "slots"), told)


def _the_limit(v: Values, model: Model) -> Iterator[Fault]:
    yield from _timed(v, model)
    rows = v["prompt_tokens"] + v["new_tokens"] // 2 + max(v["row_counts"])
    yield from _too_long(model, rows, "prompt_tokens", "new_tokens", "row_counts")
    yield from _too_long(model, v["long_context"] + 1, "long_context")
    length = min(512, v["quality_tokens"] // 2)
    yield from _too_long(model, length, "quality_tokens")
    yield from _too_much(model, "evaluation", v["quality_tokens"], length, "quality_tokens")


_WITH_MODEL: dict[str, Callable[[Values, Model], Iterator[Fault]]] = {
    "00_speed_limit": _speed_limit,
    "01_timing": _timing,
    "02_kv_cache": _kv_cache,
    "03_graph_rewriting": _graph_rewriting,
    "04_quantization": _quantization,
    "05_speculative": _speculative,
    "06_caching": _caching,
    "07_batching": _batching,
    "15_the_limit": _the_limit,
}


def check(notebook: str, values: Values, model: Model | None = None) -> None:
    """Raise ParameterError, in one line, for a value that a notebook cannot use.

    values: of its parameters, by name. model: where it is known. A notebook that is not ours may
    have any value.
    """
    if notebook not in ALLOWED:
        return
    for name, allowed in ALLOWED[notebook].items():
        if not allowed.holds(values[name]):
            _refuse(notebook, values, Fault((name,), allowed.words))
    if model is not None:
        for fault in _WITH_MODEL[notebook](values, model):
            _refuse(notebook, values, fault)


def _refuse(notebook: str, values: Values, fault: Fault) -> None:
    given = ", ".join(f"{name} is {shown(values[name])}" for name in fault.parameters)
    raise ParameterError(f"{notebook}: {given}; allowed: {fault.allowed}.")


def check_identified(notebook: str, values: Values, identity: Values | None) -> None:
    """`check` for `labkit reports`: identity is what its own process found of the model."""
    known = model_of(identity["config"], identity["text"].__getitem__) if identity else None
    check(notebook, values, known)
