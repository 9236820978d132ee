"""`labkit limit` and `labkit calculator`: the limit of a model on a machine, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from labkit.base.nearest import hint, nearest
from labkit.base.units import scaled, shown
from labkit.errors import ModelError, ParameterError
from labkit.limits.answer_told import batch_told, memory_told, number, price_told
from labkit.limits.calculator import shapes
from labkit.limits.cost import ELEMENT_BYTES, Cost, decode_cost, parameters, prefill_cost
from labkit.limits.datasheet import machine as datasheet_machine
from labkit.limits.datasheet import machines as datasheet_machines
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.measure import kept_hardware, measure_hardware
from labkit.limits.question import Question, answer
from labkit.limits.roofline import Limit, critical_batch, fits, limit
from labkit.limits.told import measured_when, told_disturbed
from labkit.model.config import ModelConfig, read_config


def _row(cells: Iterable[str]) -> str:
    first, *rest = cells
    return f"  {first:<20}" + "".join(f"{cell:>17}" for cell in rest)


_HEAD = _row(["limit", "reads", "computes", "least time", "at most", "set by"])


def _rate(found: Limit, tokens: int = 1) -> str:
    return f"{number(found.rate(tokens))} tok/s" if found.seconds else "no limit known"


def _phase(name: str, cost: Cost, found: Limit, tokens: int) -> str:
    return _row(
        [
            name,
            scaled(cost.read_bytes, "B"),
            scaled(cost.flops, "FLOP"),
            f"{found.seconds * 1e3:.3g} ms",
            _rate(found, tokens),
            found.bound,
        ]
    )


def _band(reading: Reading, unit: str) -> str:
    """The best sustained rate, and the slowest where they differ."""
    best = scaled(reading.best, unit)
    if reading.slowest == reading.best:
        return best
    return f"{best} at best, {scaled(reading.slowest, unit)} at its slowest"


def _reads(hardware: Hardware, working_set: float) -> str:
    reading = Reading(
        best=hardware.bandwidth(working_set),
        median=hardware.bandwidth(working_set),
        spread=0.0,
        slowest=hardware.slowest_bandwidth(working_set),
    )
    return f"{scaled(working_set, 'B')}: {_band(reading, 'B/s')}"


def _machine_lines(hardware: Hardware, working_set: float) -> list[str]:
    """What a machine reads and multiplies. working_set: bytes that a decode step reads."""
    measured = hardware.source == "measured"
    lines = [f"machine   {hardware.name}"]
    sizes = dict.fromkeys((working_set, float(max(hardware.bandwidth_points))))
    for size in sizes if measured else (working_set,):
        lines.append(f"          reads {_reads(hardware, size)}")
    for dtype, reading in hardware.matrix.items():
        lines.append(f"          multiplies {dtype}: {_band(reading, 'FLOP/s')}")
    if measured:
        lines.append(f"          {measured_when(hardware)}")
        lines.append("          in spells about as long as a turn of a comparison")
        lines += [f"DISTURBED {told}"] if (told := told_disturbed(hardware)) else []
    else:
        lines.append(f"          {hardware.source}")
    return lines


def _dtype_line(config: ModelConfig, hardware: Hardware, context: int, dtype: str) -> str:
    step = decode_cost(config, context, dtype=dtype)
    remark = "" if fits(config, hardware, dtype) else "does not fit"
    if hardware.in_cache(step.read_bytes):
        remark = "fits the cache"
    rate = _rate(limit(step, hardware))
    return _row([f"decode, {dtype}", "", "", "", rate, remark])


def _check(config: ModelConfig, dtype: str, prompt_tokens: int, new_tokens: int) -> None:
    if dtype not in ELEMENT_BYTES:
        raise ParameterError(f"dtype {dtype!r} is unknown; allowed: {', '.join(ELEMENT_BYTES)}.")
    if prompt_tokens < 1 or new_tokens < 1:
        raise ParameterError(
            f"prompt and new tokens must be at least 1; got {prompt_tokens} and {new_tokens}."
        )
    if prompt_tokens + new_tokens > config.max_positions:
        raise ModelError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones exceed the model's context "
            f"of {config.max_positions}."
        )


def _model_line(config: ModelConfig, name: str, kv_dtype: str) -> str:
    kv = config.kv_bytes_per_token(ELEMENT_BYTES[kv_dtype])
    return (
        f"model     {name}: {scaled(parameters(config), '').strip()} parameters, "
        f"{config.layers} layers, {scaled(kv, 'B')} of KV cache a token"
    )


def limit_text(
    config: ModelConfig,
    hardware: Hardware,
    name: str,
    dtype: str,
    prompt_tokens: int,
    new_tokens: int,
) -> str:
    """The limit of prefill and decode of one request, by phase and by dtype."""
    _check(config, dtype, prompt_tokens, new_tokens)
    prefill = prefill_cost(config, prompt_tokens, dtype=dtype)
    first = decode_cost(config, prompt_tokens, dtype=dtype)
    last = decode_cost(config, prompt_tokens + new_tokens - 1, dtype=dtype)
    lines = [
        *_machine_lines(hardware, first.read_bytes),
        _model_line(config, name, dtype),
        "",
        _HEAD,
        _phase(f"prefill {prompt_tokens}", prefill, limit(prefill, hardware), prompt_tokens),
        _phase(f"decode at {prompt_tokens}", first, limit(first, hardware), 1),
        _phase(f"decode at {prompt_tokens + new_tokens - 1}", last, limit(last, hardware), 1),
        "",
    ]
    lines += [_dtype_line(config, hardware, prompt_tokens, other) for other in ELEMENT_BYTES]
    batch = critical_batch(config, hardware, dtype)
    return "\n".join([*lines, "", batch_told(hardware, first, batch)])


def limit_report(
    model: str | None,
    device: str,
    dtype: str,
    prompt_tokens: int,
    new_tokens: int,
    remeasure: bool = False,
    machine: str | None = None,
) -> str:
    """The text for a model (name, directory, GGUF or hub id) here or on a machine of the table."""
    from labkit.base.device import resolve_device
    from labkit.model.load import locate_described

    hardware = None if machine is None else datasheet_machine(machine)
    name, directory, _ = locate_described(model)
    config = read_config(directory)
    _check(config, dtype, prompt_tokens, new_tokens)
    if hardware is None:
        hardware = measure_hardware(resolve_device(device), remeasure=remeasure)
    return limit_text(config, hardware, name, dtype, prompt_tokens, new_tokens)


def answer_text(config: ModelConfig, hardware: Hardware, name: str, asked: Question) -> str:
    """The answer of the calculator: memory, limits, the batch that turns, and money."""
    found = answer(config, hardware, asked)
    prompt, step = found.prefill, found.decode
    lines = [
        *_machine_lines(hardware, step.cost.read_bytes),
        _model_line(config, name, asked.kv_dtype),
        f"memory    {memory_told(found, hardware, asked)}",
    ]
    if not found.fits:
        return "\n".join(lines)
    batch = batch_told(hardware, step.cost, found.critical_batch, asked.context)
    lines += [
        "",
        _HEAD,
        _phase(f"prefill {prompt.tokens}", prompt.cost, prompt.limit, prompt.tokens),
        _phase(f"decode at {asked.context}", step.cost, step.limit, step.tokens),
        "",
        batch,
    ]
    money = "" if asked.price is None else price_told(found, asked.price)
    return "\n".join([*lines, money] if money else lines)


def shape(name: str) -> ModelConfig:
    """A shape of the table; ParameterError names the nearest and all others."""
    known = shapes()
    if name not in known:
        meant = hint(nearest(name, known))
        raise ParameterError(f"shape {shown(name)} is unknown.{meant} Allowed: {', '.join(known)}.")
    return known[name]


def kept_machine(device: str) -> Hardware:
    """This machine as measured; ParameterError where that is not kept: nothing is measured here."""
    from labkit.base.device import resolve_device

    if found := kept_hardware(resolve_device(device)):
        return found
    raise ParameterError(
        "this machine is not measured yet: `labkit limit` measures it. Or name a machine of the "
        f"table: {', '.join(datasheet_machines())}."
    )


def answer_report(shape_name: str, machine: str | None, device: str, asked: Question) -> str:
    """The calculator's answer for a shape of the table, on a machine of the table or on this one
    as it is measured."""
    config = shape(shape_name)
    hardware = kept_machine(device) if machine is None else datasheet_machine(machine)
    return answer_text(config, hardware, shape_name, asked)
