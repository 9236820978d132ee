"""The measurements of how timing misleads, on series whose truth is known."""

import itertools
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from labkit.studies import pitfalls
from tests.tiny import tiny_decoder


def test_the_simple_model_computes_nothing(capsys):
    x = torch.randn(1, 100)
    assert pitfalls.SimpleLLM()(x) is x
    assert pitfalls.naive_benchmark() >= 0
    assert "Inference time:" in capsys.readouterr().out


def test_clock_step_is_the_least_distance_of_two_readings():
    readings = itertools.chain([0.0, 0.0, 0.5, 0.5, 0.75], itertools.repeat(0.75))
    assert pitfalls.clock_step(lambda: next(readings), 10) == 0.25


def test_blocks_mistake_drift_for_a_difference_and_turns_do_not():
    drifting = np.linspace(1, 3, 60)
    assert abs(np.median(pitfalls.block_ratios(drifting, 10)) - 1) > 0.15
    assert np.median(pitfalls.interleaved_ratios(drifting, 10)) == pytest.approx(1, abs=0.01)


def test_handing_over_is_counted_apart_from_being_done():
    queued, done = pitfalls.queued_and_done(lambda: time.sleep(0.05))
    assert done >= 0.05
    assert queued < done


def test_a_slowed_stream_yields_the_same_tokens():
    assert list(pitfalls.slowed(iter([1, 2, 3]), 0.5)) == [1, 2, 3]


def test_interleaving_bounds_what_a_drift_can_claim() -> None:
    """On a series that drifts steadily, all blocks claim a change that is not there."""
    drifting = np.linspace(1, 3, 60)
    blocks = pitfalls.middle(pitfalls.block_ratios(drifting, 10), 0.95)
    interleaved = pitfalls.middle(pitfalls.interleaved_ratios(drifting, 10), 0.95)
    assert blocks[1] < 0.9  # B, timed later, looks slower
    assert interleaved == pytest.approx((1, 1), abs=0.01)


def test_a_steady_series_claims_nothing_either_way() -> None:
    steady = [2.0] * 40
    assert set(pitfalls.block_ratios(steady, 10)) == {1.0}
    assert set(pitfalls.interleaved_ratios(steady, 10)) == {1.0}


def test_the_middle_leaves_out_the_same_on_either_side() -> None:
    assert pitfalls.middle(range(101), 0.9) == pytest.approx((5, 95))
    assert pitfalls.middle([7.0], 0.5) == (7, 7)


class Words:
    """A tokenizer of a text that is long enough for any prompt."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) % 97 for letter in text]


def test_slowed_decoding_gives_the_tokens_of_the_plain_one() -> None:
    model: Any = SimpleNamespace(decoder=tiny_decoder(), tokenizer=Words())
    plain, slow = (pitfalls.slowed_decoding(model, share, 8, 4)(3) for share in (0.0, 0.2))
    assert plain.prompt_tokens == slow.prompt_tokens == 8
    assert len(plain.tokens) == 4
    assert plain.tokens == slow.tokens
