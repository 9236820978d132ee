"""Damaged models: both loaders refuse them with one clear line, or both compute the same.

`python -m tests.fuzzing FOLDER COUNT` tries as many files; the tests try fewer. A case that our
loaders take is compared with transformers too.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from labkit.errors import LabkitError
from labkit.model.load import load
from labkit.optimize.fused import load_fused, native
from tests.conftest import make_reference
from tests.fused_helpers import SIZES, logits, plain_twin, tiny_gguf

IDS = list(range(3, 20))
native.library()  # compiled before anything is timed
SECONDS = 5.0  # the longest that a case may take
_VALUES: tuple[Any, ...] = (
    None, True, False, "false", "many", 0, 1, 2, 3, -1, 7, 16, 48, 64, 96, 97, 2**31, 2**63, 0.5,
    1e-6, 1e308, math.nan, math.inf, [], [1, 2], {}, {"rope_type": "yarn", "factor": 2.0},
)  # fmt: skip


def change_config(folder: Path, rng: np.random.Generator) -> str:
    """Change one key of a directory's config.json."""
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    more = (
        "head_dim",
        "mlp_bias",
        "attention_bias",
        "sliding_window",
        "rope_scaling",
        "rope_theta",
    )
    key = str(rng.choice(sorted({*raw, *more})))
    if rng.random() < 0.2:
        raw.pop(key, None)
        value: Any = "dropped"
    else:
        value = raw[key] = _VALUES[rng.integers(len(_VALUES))]
    path.write_text(json.dumps(raw))
    return f"{key}: {value!r}"


def change_weights(folder: Path, rng: np.random.Generator) -> str:
    """Drop, add, rename or cut a tensor of a directory."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = str(rng.choice(sorted(weights)))
    how = int(rng.integers(6))
    if how == 0:
        del weights[name]
    elif how == 1:
        weights[name] = weights[name][:-1].clone()
    elif how == 2:
        weights[name] = torch.cat((weights[name], weights[name][:1]))
    elif how == 3:
        extra = ("self_attn.q_proj.bias", "self_attn.q_norm.weight", "mlp.up_proj.bias")
        stray = f"model.layers.0.{rng.choice(extra)}"
        weights[stray] = torch.ones(64)
    elif how == 4:
        weights[name.replace("layers.1", "layers.2")] = weights.pop(name)
    else:
        weights[name] = weights[name].to(torch.bfloat16)
    save_file(weights, path, metadata={"format": "pt"})
    return f"{name}, {how}"


def change_bytes(path: Path, rng: np.random.Generator, most: int) -> str:
    """Overwrite some bytes at the beginning of a file, or cut it."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.1:
        del data[int(rng.integers(len(data))) :]
    for _ in range(int(rng.integers(1, 4))):
        if len(data) < 16:
            break
        at = int(rng.integers(min(len(data), most)))
        size = int(rng.choice([1, 1, 1, 4, 8]))
        word = rng.choice([0, 1, 2**7, 2**31 - 1, 2**31, 2**32 - 1, int(rng.integers(2**32))])
        given = int(word).to_bytes(8, "little")[:size] if size > 1 else rng.bytes(1)
        data[at : at + size] = given
    path.write_bytes(data)
    return "bytes"


def answer(make: Any) -> torch.Tensor | str:
    """Logits, or the one line with which a model was refused."""
    try:
        decoder = make()
        found = logits(decoder, [one % decoder.config.vocab_size for one in IDS])
    except LabkitError as error:
        said = str(error)
    else:
        return found
    assert "\n" not in said, said
    return said


def agree(one: torch.Tensor, other: torch.Tensor, within: float) -> bool:
    """Whether logits are the same but for rounding; both may be no numbers at all."""
    if one.shape != other.shape:
        return False
    sound = torch.isfinite(one) & torch.isfinite(other)
    if not sound.all():
        return bool((~torch.isfinite(one)).any() and (~torch.isfinite(other)).any())
    return bool((one - other).abs().max() <= within * (1 + one.abs().max()))


def gguf_case(original: Path, folder: Path, seed: int) -> str:
    """One damaged GGUF file; returns what came of it."""
    rng, file = np.random.default_rng(seed), folder / "case.gguf"
    shutil.copy(original, file)
    change_bytes(file, rng, int(rng.choice([64, 1500, 6000])))
    for _ in range(2):  # a busy machine, or a first import, is no hang
        start = time.monotonic()
        plain = answer(lambda: plain_twin(file))
        fused = answer(lambda: load_fused(file, threads=1))
        if (took := time.monotonic() - start) < SECONDS:
            break
    assert took < SECONDS, f"seed {seed} took {took:.0f} s"
    return _outcome(seed, plain, fused, 5e-2)  # ties round both ways


def directory_case(original: Path, folder: Path, seed: int, compare: bool = True) -> str:
    """One damaged directory; compare: with transformers too."""
    rng, case = np.random.default_rng(seed), folder / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(original, case)
    how = int(rng.integers(4))
    if how == 3:
        said = change_bytes(case / "model.safetensors", rng, 3000)
    else:
        said = change_weights(case, rng) if how == 0 else change_config(case, rng)
    plain = answer(lambda: load(case, "cpu").decoder)
    fused = answer(lambda: load_fused(case, "q8_0", threads=1))
    found = _outcome(seed, plain, fused, 0.1)
    if compare and not isinstance(plain, str):
        theirs = _transformers(case)
        assert theirs is None or agree(plain, theirs, 1e-3), f"seed {seed}: {said}"
    return found


def _transformers(folder: Path) -> torch.Tensor | None:
    """transformers' logits; None where it refuses the directory."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        ids = [one % model.config.vocab_size for one in IDS]
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0]
    except Exception:
        return None


def _outcome(seed: int, plain: torch.Tensor | str, fused: torch.Tensor | str, near: float) -> str:
    if isinstance(plain, str) and isinstance(fused, str):
        return "refused"
    if isinstance(fused, str) and "NaN" in fused:  # the plain one leaves that to the sampler
        assert not torch.isfinite(plain).all(), f"seed {seed}: only fused has no numbers: {fused}"
        return "no numbers"
    if isinstance(fused, str):  # the kernel reads fewer shapes and formats, and says so
        named = ("fused decoder", "block format", "is not F32", "not F32 or F16")
        assert any(one in fused for one in named), f"seed {seed}: only fused refused: {fused}"
        return "plain only"
    assert not isinstance(plain, str), f"seed {seed}: only plain refused: {plain}"
    assert agree(plain, fused, near), f"seed {seed}: they disagree"
    return "same"


def main(folder: Path, count: int) -> None:
    """Try `count` GGUF files, and a tenth as many directories."""
    file = tiny_gguf(folder / "tiny.gguf", "qwen2-tied", "Q4_1")
    make_reference("llama-tied", **SIZES).save_pretrained(folder / "tiny")
    found: Counter[str] = Counter()
    for seed in range(count):
        found[f"gguf {gguf_case(file, folder, seed)}"] += 1
        if seed % 10 == 0:
            found[f"directory {directory_case(folder / 'tiny', folder, seed)}"] += 1
    print(dict(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
