"""`labkit limit`: the limit of a model on a machine, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from labkit.base.units import scaled
from labkit.errors import ModelError, ParameterError
from labkit.limits.calculator import cache_note
from labkit.limits.cost import ELEMENT_BYTES, Cost, decode_cost, parameters, prefill_cost
from labkit.limits.datasheet import machine as datasheet_machine
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.measure import measure_hardware
from labkit.limits.roofline import Limit, critical_batch, fits, limit
from labkit.limits.told import measured_when, told_disturbed
from labkit.model.config import ModelConfig, read_config


def _row(cells: Iterable[str]) -> str:
    first, *rest = cells
    return f"  {first:<20}" + "".join(f"{cell:>17}" for cell in rest)


def _rate(found: Limit, tokens: int = 1) -> str:
    rate = found.rate(tokens)
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _phase(name: str, cost: Cost, found: Limit, tokens: int) -> str:
    return _row(
        [
            name,
            scaled(cost.read_bytes, "B"),
            scaled(cost.flops, "FLOP"),
            f"{found.seconds * 1e3:.3g} ms",
            f"{_rate(found, tokens)} tok/s",
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
    return _row([f"decode, {dtype}", "", "", "", f"{rate} tok/s", remark])


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
    kv = config.kv_bytes_per_token(ELEMENT_BYTES[dtype])
    lines = [
        *_machine_lines(hardware, first.read_bytes),
        f"model     {name}: {scaled(parameters(config), '').strip()} parameters, "
        f"{config.layers} layers, {scaled(kv, 'B')} of KV cache a token",
        "",
        _row(["limit", "reads", "computes", "least time", "at most", "set by"]),
        _phase(f"prefill {prompt_tokens}", prefill, limit(prefill, hardware), prompt_tokens),
        _phase(f"decode at {prompt_tokens}", first, limit(first, hardware), 1),
        _phase(f"decode at {prompt_tokens + new_tokens - 1}", last, limit(last, hardware), 1),
        "",
    ]
    lines += [_dtype_line(config, hardware, prompt_tokens, other) for other in ELEMENT_BYTES]
    return "\n".join([*lines, "", _batch_line(config, hardware, first)])


def _batch_line(config: ModelConfig, hardware: Hardware, step: Cost) -> str:
    """Up to which batch memory sets the decode limit, or why it never does."""
    if note := cache_note(step, hardware):
        return f"in {step.dtype}, {note}."
    if step.dtype not in hardware.matrix:
        return f"no rate of products in {step.dtype} is known: the limits count reading alone."
    batch = critical_batch(config, hardware, step.dtype)
    return (
        f"decoding is compute bound, not memory bound, from a batch of {batch:.3g} on "
        f"({step.dtype})."
    )


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
