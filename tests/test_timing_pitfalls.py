"""The measurements of how timing misleads, on series whose truth is known."""

import itertools
import time

import numpy as np
import pytest
import torch

from labkit.timing import pitfalls
from labkit.timing.breakdown import count_operations, matrices_only
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


def test_matrices_only_multiplies_every_matrix_once():
    decoder = tiny_decoder()
    linear = sum(isinstance(module, torch.nn.Linear) for module in decoder.modules())
    work = matrices_only(decoder)
    assert linear == 2 * 7 + 1
    assert count_operations(work) >= linear
