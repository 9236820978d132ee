"""Random questions to the calculator: machines and shapes of the tables, and others that differ in
everything that the limits ask about."""

from __future__ import annotations

import random
from typing import Any

from labkit.limits import datasheet
from labkit.limits.calculator import shapes
from labkit.limits.cost import ELEMENT_BYTES
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.question import ALLOWED, Question
from labkit.model.config import ModelConfig
from labkit.model.experts import Experts

FLAGS = (
    "tied_head", "attention_bias", "output_bias", "mlp_bias", "qk_norm", "qk_norm_whole",
    "pre_norms", "post_norms",
)  # fmt: skip
DTYPES = tuple(ELEMENT_BYTES)


def here() -> Hardware:
    """A machine as measured: fast caches, slower memory, and a size that was read too slowly."""
    rates = {2**16: 160e9, 2**20: 90e9, 2**25: 40e9, 2**28: 47e9, 2**30: 45e9}
    points = {size: Reading(rate, rate, 0.0, rate / 2) for size, rate in rates.items()}
    matrix = {"float32": Reading(2e11, 2e11, 0.0, 1e11), "int8": Reading(9e11, 8e11, 0.0, 7e11)}
    when = "2026-11-20T10:00:00+00:00"
    return Hardware("Some CPU", "cpu", 2, points, matrix, 16_000_000_000, measured_at=when)


def spread(rng: random.Random, least: float, most: float) -> int:
    """A whole number whose logarithm is uniform, so that small and large ones are as likely."""
    return int(least * (most / least) ** rng.random())


def random_config(rng: random.Random) -> ModelConfig:
    """A shape with windows, experts, biases and norms, or without."""
    layers, kv_heads = rng.randint(1, 90), rng.randint(1, 16)
    mixed = rng.random() < 0.4
    count = rng.randint(2, 256)
    experts = Experts(
        count, rng.randint(1, count), spread(rng, 32, 4096),
        tuple(n for n in range(layers) if rng.random() < 0.7) or (0,),
    )  # fmt: skip
    return ModelConfig(
        family="llama", vocab_size=spread(rng, 100, 300_000), layers=layers,
        hidden_size=spread(rng, 64, 16_384), intermediate_size=spread(rng, 64, 60_000),
        heads=kv_heads * rng.randint(1, 8), kv_heads=kv_heads, head_dim=2 * rng.randint(8, 128),
        rms_norm_eps=1e-5, rope_theta=1e4, max_positions=int(ALLOWED["context"][1]),
        sliding_window=spread(rng, 2, 10_000) if rng.random() < 0.4 else None,
        windowed=tuple(rng.random() < 0.6 for _ in range(layers)),
        experts=experts if mixed else None, **{name: rng.random() < 0.5 for name in FLAGS},
    )  # fmt: skip


def random_machine(rng: random.Random) -> Hardware:
    """A measured machine or one of a datasheet, with a cache or without, rates known or not."""
    measured = rng.random() < 0.5
    many = rng.randint(2, 9) if rng.random() < 0.6 else 1
    sizes = sorted(spread(rng, 1e4, 1e11) for _ in range(many))
    points = {size: Reading(rate := 1e9 * spread(rng, 1, 9000), rate, 0.0) for size in sizes}
    known = [dtype for dtype in DTYPES if rng.random() < 0.4]
    matrix = {dtype: Reading(rate := 1e9 * spread(rng, 1, 5e6), rate, 0.0) for dtype in known}
    return Hardware(
        "a machine", "cpu", 2, points, matrix,
        capacity=spread(rng, 1e9, 1e13) if rng.random() < 0.8 else 0,
        cache=spread(rng, 1e8, 1e13) if rng.random() < 0.6 else 0,
        source="measured" if measured else "a datasheet",
    )  # fmt: skip


def random_question(rng: random.Random, config: ModelConfig) -> Question:
    """A question that may be asked of this shape."""
    context = spread(rng, 1, min(config.max_positions, ALLOWED["context"][1]))
    return Question(
        dtype=rng.choice(DTYPES), kv_dtype=rng.choice(DTYPES),
        batch=spread(rng, 1, ALLOWED["batch"][1]), context=context,
        prompt_tokens=spread(rng, 1, context), price=rng.uniform(0.01, 100),
    )  # fmt: skip


def tables(rng: random.Random) -> tuple[dict[str, Hardware], dict[str, ModelConfig]]:
    """Machines and shapes by name: those of the page, and as many others."""
    machines = {"here": here(), **datasheet.machines()}
    machines |= {f"random {n}": random_machine(rng) for n in range(200)}
    return machines, shapes() | {f"random {n}": random_config(rng) for n in range(200)}


def questions(count: int, seed: int) -> tuple[Any, Any, list[tuple[str, str, Question]]]:
    """Machines, shapes, and as many questions: a machine's name, a shape's, and what is asked.
    Half of the machines and of the shapes are those of the page."""
    rng = random.Random(seed)
    machines, configs = tables(rng)

    def pick(table: dict[str, Any]) -> str:
        ours = rng.random() < 0.5
        return rng.choice([name for name in table if name.startswith("random") != ours])

    asked = []
    for _ in range(count):
        machine, name = pick(machines), pick(configs)
        asked.append((machine, name, random_question(rng, configs[name])))
    return machines, configs, asked
