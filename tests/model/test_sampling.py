"""Samplers: greedy, and the distribution that temperature, top-k and top-p leave."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from labkit.errors import ModelError, ParameterError
from labkit.model.sampling import Sampler, greedy, likeliest, target_probs

LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 2.5, 0.0])
a_vocabulary = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40).map(torch.tensor)


def softmax_by_hand(logits: Tensor, temperature: float) -> list[float]:
    weights = [math.exp(float(x) / temperature) for x in logits]
    return [weight / sum(weights) for weight in weights]


def test_greedy_takes_the_first_of_the_most_likely() -> None:
    assert greedy(LOGITS) == 4
    assert greedy(torch.tensor([1.0, 3.0, 3.0])) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_by_hand(temperature: float) -> None:
    expected = softmax_by_hand(LOGITS, temperature)
    assert target_probs(LOGITS, temperature).tolist() == pytest.approx(expected, rel=1e-5)


def test_an_infinite_logit_is_no_likeliest_token() -> None:
    """Also of the samplers it would be refused: its probability is infinity over infinity."""
    for wrong in (math.inf, math.nan):
        with pytest.raises(ModelError, match="NaN"):
            likeliest(torch.tensor([[0.0, 1.0], [0.0, wrong]]))
    assert likeliest(torch.tensor([[-math.inf, 1.0]])) == [1]
    with pytest.raises(ModelError, match="NaN"):
        likeliest(torch.full((1, 3), -math.inf))


def test_temperature_towards_zero_is_greedy() -> None:
    assert Sampler(temperature=0).probs(LOGITS).tolist() == [0, 0, 0, 0, 1, 0]
    for temperature in (0.1, 1e-3, 1e-8):
        probs = target_probs(LOGITS, temperature)
        assert probs[4] >= 1 - 2 * math.exp(-0.5 / temperature) - 1e-6
        assert Sampler(temperature, seed=3)(LOGITS) in ({4} if temperature < 0.1 else {1, 4})
    assert Sampler(temperature=0)(LOGITS) == greedy(LOGITS)


def test_top_k_by_hand() -> None:
    two = target_probs(LOGITS, top_k=2)
    e = math.exp(0.5)
    assert two.tolist() == pytest.approx([0, 1 / (1 + e), 0, 0, e / (1 + e), 0])
    assert torch.equal(target_probs(LOGITS, top_k=1) > 0, LOGITS == 2.5)
    assert torch.allclose(target_probs(LOGITS, top_k=99), target_probs(LOGITS))


def test_top_p_by_hand() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    assert (target_probs(logits, top_p=0.5) > 0).tolist() == [False, True, False, False]
    assert target_probs(logits, top_p=0.6).tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3])
    assert target_probs(logits, top_p=0.9).tolist() == pytest.approx([0, 5 / 9, 1 / 6, 5 / 18])
    # top-k first: of the two that are left the first has 2/3 of the mass
    assert target_probs(logits, top_k=2, top_p=0.6).tolist() == pytest.approx([0, 1, 0, 0])


@given(
    logits=a_vocabulary,
    temperature=st.floats(0.05, 10),
    top_k=st.integers(0, 50),
    top_p=st.floats(0.01, 1),
)
def test_what_is_left_is_the_smallest_likeliest_set(
    logits: Tensor, temperature: float, top_k: int, top_p: float
) -> None:
    plain = target_probs(logits, temperature)
    probs = target_probs(logits, temperature, top_k, top_p)
    kept = probs > 0
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    assert kept[plain.argmax()]
    if not kept.all():  # nothing dropped is likelier than what is kept
        assert plain[~kept].max() <= plain[kept].min()
    among = plain * (plain >= plain.topk(min(top_k or 50, len(plain))).values[-1])
    among = among / among.sum()
    assert among[kept].sum() >= top_p - 1e-4
    assert among[kept].sum() - among[kept].min() < top_p + 1e-4  # one fewer would not reach it
    ratio = probs[kept] / plain[kept]  # what is kept keeps its proportions
    assert ratio.max().item() == pytest.approx(ratio.min().item(), rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}, {"top_k": 4, "top_p": 0.9}],
    ids=str,
)
def test_draws_follow_the_distribution(settings: dict[str, float]) -> None:
    sampler, draws = Sampler(**settings, seed=11), 20_000
    counts = torch.bincount(torch.tensor([sampler(LOGITS) for _ in range(draws)]), minlength=6)
    probs = sampler.probs(LOGITS)
    possible = probs > 0
    assert counts[~possible].sum() == 0
    expected = probs[possible].double()
    found = stats.chisquare(counts[possible].numpy(), (expected / expected.sum() * draws).numpy())
    assert found.pvalue > 0.001


def test_a_seed_fixes_the_draws_and_nothing_else_does() -> None:
    flat = torch.zeros(50)

    def draws(seed: int) -> list[int]:
        sampler = Sampler(seed=seed)
        return [sampler(flat) for _ in range(30)]

    torch.manual_seed(1)
    first = draws(5)
    torch.manual_seed(2)  # the global stream is not used
    assert draws(5) == first
    assert draws(6) != first


def test_probs_of_several_rows_at_once() -> None:
    rows = torch.stack((LOGITS, LOGITS.flip(0)))
    for sampler in (Sampler(0), Sampler(0.7, top_k=3, top_p=0.9)):
        both = sampler.probs(rows)
        assert torch.allclose(both[0], sampler.probs(LOGITS))
        assert torch.allclose(both[1], sampler.probs(LOGITS).flip(0))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": "1"},
        {"temperature": None}, {"temperature": 10**400}, {"top_k": -1}, {"top_p": 0},
        {"top_p": 1.1}, {"top_p": "0.5"}, {"top_p": None}, {"seed": 2**64}, {"seed": -(2**63) - 1},
        {"seed": 1.5}, {"seed": "a"}, {"seed": None}, {"seed": "x" * 10**6},
    ],
    ids=lambda settings: str(settings)[:30],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="allowed are temperature >= 0") as caught:
        Sampler(**settings)
    assert len(str(caught.value)) < 300


def test_numbers_of_numpy_are_numbers() -> None:
    Sampler(np.float32(0.5), np.int64(3), np.float64(0.9), np.int64(7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_likeliest_is_torchs_argmax(dtype: torch.dtype) -> None:
    logits = torch.randn(5, 70_000, generator=torch.Generator().manual_seed(1)).to(dtype)
    logits[1, [7, 9]] = logits[1].max() + 1
    assert likeliest(logits) == logits.float().argmax(-1).tolist()
    assert likeliest(logits)[1] == 7


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 1e-45}, {"temperature": 1e-300}, {"top_p": 1e-300}, {"top_p": 1e-45}],
)
def test_the_smallest_settings_are_greedy(settings) -> None:
    assert Sampler(**settings).probs(LOGITS).tolist() == [0, 0, 0, 0, 1, 0]


def test_a_top_k_that_is_no_whole_number_is_refused() -> None:
    for top_k in (2.5, 2.0, True, "2"):
        with pytest.raises(ParameterError, match="a whole top_k"):
            Sampler(top_k=top_k)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", [greedy, Sampler(0), Sampler(0.7), Sampler(1.0, top_k=2)])
def test_logits_that_are_no_numbers_are_refused(sampler) -> None:
    broken = LOGITS.clone()
    broken[2] = float("nan")
    with pytest.raises(ModelError, match="no numbers"):
        sampler(broken)
