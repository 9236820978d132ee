"""Every cache against no cache: the same tokens, and costs that add up."""

import pytest

from labkit.engine.generate import generate
from labkit.errors import ParameterError
from labkit.limits.cost import decode_cost, prefill_cost
from labkit.model.load import load
from labkit.optimize import kv_cache as routines
from labkit.quality.lossless import same_answer
from labkit.studies import kv_cache as study
from labkit.studies import kv_cache_variants as kv_cache
from labkit.studies.kv_cache_variants import GROWING, NO_CACHE, STATIC, cost_of
from labkit.workload.prompts import prompt_ids
from tests.tiny import tiny_decoder

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("kind", [GROWING, STATIC, kv_cache.sliding(64)])
def test_caches_give_the_tokens_of_no_cache(kind):
    decoder = tiny_decoder()
    expected = list(routines.generate_without_cache(decoder, PROMPT, 20))
    make = kv_cache.makers(decoder, 64, window=64)[kind]
    assert list(generate(decoder, PROMPT, 20, cache=make())) == expected


def test_a_window_that_forgets_may_differ_but_stays_bounded():
    decoder = tiny_decoder()
    make = kv_cache.makers(decoder, 128, window=8)[kv_cache.sliding(8)]
    cache = make()
    list(generate(decoder, PROMPT, 60, cache=cache))
    a_token = decoder.config.kv_bytes_per_token(4)
    assert cache.nbytes <= (8 + 4 + 1) * a_token


@pytest.mark.parametrize("kind", [GROWING, STATIC, kv_cache.sliding(8)])
def test_steps_in_a_fork_leave_the_context_as_it_was(kind):
    decoder = tiny_decoder()
    cache = routines.fill(decoder, kv_cache.makers(decoder, 64, window=8)[kind](), PROMPT, chunk=3)
    first = list(routines.cached_steps(decoder, cache, [7, 8, 9]))
    assert cache.length(0) == len(PROMPT)
    assert list(routines.cached_steps(decoder, cache, [7, 8, 9])) == first
    if kind != kv_cache.sliding(8):
        assert first == list(routines.recompute_steps(decoder, PROMPT, [7, 8, 9]))


def test_step_costs():
    config = tiny_decoder().config
    cost = lambda kind: cost_of(config, kind, 100, "float32", window=16, sinks=4)  # noqa: E731
    assert cost(NO_CACHE) == prefill_cost(config, 101, dtype="float32")
    assert cost(GROWING) == cost(STATIC) == decode_cost(config, 100, dtype="float32")
    assert cost(kv_cache.sliding(16)) == decode_cost(config, 19, dtype="float32")


def test_rounds_along_the_context_run():
    decoder = tiny_decoder()
    runs = kv_cache.steps_at(decoder, kv_cache.makers(decoder, 64, 8), [*PROMPT, 1, 2, 3], 8)
    assert {name: len(run(1).times) for name, run in runs.items()} == {
        NO_CACHE: 2,
        GROWING: 3,
        STATIC: 3,
        kv_cache.sliding(8): 3,
    }


@pytest.mark.model
def test_the_real_model_gives_the_same_tokens():
    model = load(device="cpu")
    prompt = prompt_ids(model.tokenizer, 40)
    expected = list(routines.generate_without_cache(model.decoder, prompt, 8))
    for kind, make in kv_cache.makers(model.decoder, 64, 64).items():
        found = list(generate(model.decoder, prompt, 8, cache=make()))
        assert same_answer(model.decoder, prompt, expected, found).lossless, kind


@pytest.mark.parametrize("contexts", [[], [0], [64, -5]])
def test_contexts_that_are_none_are_refused_before_a_model_is_loaded(contexts: list[int]) -> None:
    with pytest.raises(ParameterError, match="contexts must be some numbers from 1 on"):
        study.run(contexts=contexts, model="/none")


@pytest.mark.parametrize(
    "wrong", [{"window": 0}, {"quality_tokens": 1}, {"rounds": 2}, {"new_tokens": 0}]
)
def test_numbers_that_no_study_can_use_are_refused_before_anything_is_loaded(wrong):
    with pytest.raises(ParameterError, match="allowed are at least"):
        study.Study(model="/nowhere", **wrong)
