"""Every cache against no cache: the same tokens, and costs that add up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml

from labkit.base.paths import project_root
from labkit.engine.generate import generate
from labkit.errors import ParameterError
from labkit.limits.cost import Cost, decode_cost, prefill_cost
from labkit.model.load import load
from labkit.model.rows import Rows
from labkit.optimize import kv_cache as routines
from labkit.quality.lossless import same_answer
from labkit.report.told.compared import Least
from labkit.studies import kv_cache as study
from labkit.studies import kv_cache_earlier
from labkit.studies import kv_cache_sentences as sentences
from labkit.studies import kv_cache_variants as kv_cache
from labkit.studies.kv_cache_earlier import Earlier
from labkit.studies.kv_cache_variants import GROWING, NO_CACHE, STATIC, cost_of
from labkit.studies.kv_cache_window import forgetful
from labkit.timing.compare import Comparison, again
from labkit.timing.statistics import interval
from labkit.timing.trace import Trace
from labkit.workload.prompts import prompt_ids
from tests.tiny import save_tiny_model, tiny_decoder

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
NARROW, SHORTER = kv_cache.sliding(8), f"{NO_CACHE}, shorter context"


@pytest.mark.parametrize("kind", [GROWING, STATIC, kv_cache.sliding(64)])
def test_caches_give_the_tokens_of_no_cache(kind):
    decoder = tiny_decoder()
    expected = list(routines.generate_without_cache(decoder, PROMPT, 20))
    make = kv_cache.makers(decoder, 64, window=64)[kind]
    assert list(generate(decoder, PROMPT, 20, cache=make())) == expected


def test_a_window_that_forgets_may_differ_but_stays_bounded():
    decoder = tiny_decoder()
    cache = kv_cache.makers(decoder, 128, window=8)[NARROW]()
    list(generate(decoder, PROMPT, 60, cache=cache))
    a_token = decoder.config.kv_bytes_per_token(4)
    assert cache.nbytes <= (8 + 4 + 1) * a_token


@pytest.mark.parametrize("kind", [GROWING, STATIC, NARROW])
def test_steps_in_a_fork_leave_the_context_as_it_was(kind):
    decoder = tiny_decoder()
    cache = routines.fill(decoder, kv_cache.makers(decoder, 64, window=8)[kind](), PROMPT, chunk=3)
    first = list(routines.cached_steps(decoder, cache, [7, 8, 9]))
    assert cache.length(0) == len(PROMPT)
    assert list(routines.cached_steps(decoder, cache, [7, 8, 9])) == first
    if kind != NARROW:
        assert first == list(routines.recompute_steps(decoder, PROMPT, [7, 8, 9]))


def test_step_costs():
    config = tiny_decoder().config
    cost = lambda kind: cost_of(config, kind, 100, "float32", window=16, sinks=4)  # noqa: E731
    assert cost(NO_CACHE) == prefill_cost(config, 101, dtype="float32")
    assert cost(GROWING) == cost(STATIC) == decode_cost(config, 100, dtype="float32")
    assert cost(kv_cache.sliding(16)) == decode_cost(config, 19, dtype="float32")


@pytest.mark.parametrize("without", [True, False])
def test_rounds_along_the_context_run(without: bool):
    decoder = tiny_decoder()
    ids, makers = [*PROMPT, 1, 2, 3], kv_cache.makers(decoder, 64, 8)
    runs = kv_cache.steps_at(decoder, makers, ids, 8, without)
    expected = {GROWING: 3, STATIC: 3, NARROW: 3} | ({NO_CACHE: 2} if without else {})
    assert {name: len(run(1).times) for name, run in runs.items()} == expected


def kept_after(context: int) -> int:
    """Tokens that a window of 8 holds after a step of one row at `context`."""
    decoder = tiny_decoder()
    cache = kv_cache.makers(decoder, 64, window=8)[NARROW]()
    routines.fill(decoder, cache, (PROMPT * 4)[:context], chunk=1)
    decoder(Rows.decode({0: (1, context)}), cache)
    return cache.nbytes // decoder.config.kv_bytes_per_token(4)


def test_a_window_drops_a_token_from_the_context_on_that_is_told():
    first = kv_cache.slides_from(8)
    assert kept_after(first - 1) == first
    assert kept_after(first) == kept_after(first + 5) == first


def test_the_timed_steps_are_those_that_tpot_counts():
    decoder, seen = tiny_decoder(), []
    cache = decoder.new_cache(1, 32)
    for _ in generate(decoder, PROMPT, 5, cache=cache):
        seen.append(cache.length(0))  # after the step that gave this token
    assert [length - 1 for length in seen[1:]] == list(kv_cache.timed_contexts(len(PROMPT), 5))


@pytest.mark.parametrize("profile", ["full", "quick"])
def test_the_window_slides_in_every_timed_step_of_both_profiles(profile: str):
    path = project_root() / "notebooks" / "profiles" / f"{profile}.yaml"
    given = yaml.safe_load(path.read_text(encoding="utf-8"))["02_kv_cache"]
    window = given.get("window", study.Study.window)
    prompt = given.get("prompt_tokens", study.Study.prompt_tokens)
    assert kv_cache.slides_from(window) <= prompt
    assert given.get("check_tokens", study.Study.check_tokens) >= 32


def test_a_window_is_judged_only_where_it_has_dropped_tokens():
    decoder = tiny_decoder()
    ids = [(7 * i) % 97 for i in range(80)]
    quality = forgetful(decoder, ids, window=8)
    assert quality is not None
    assert quality["positions"] == (len(ids) - 1 - kv_cache.slides_from(8)) // 16 * 16
    assert quality["kl_mean"] > 0
    assert quality["perplexity_ratio_low"] < quality["perplexity_ratio"]
    assert quality["perplexity_ratio"] < quality["perplexity_ratio_high"]
    assert forgetful(decoder, ids, window=60) is None
    assert "too short" in sentences.of_window("window", None)


def of(times: dict[str, float]) -> Comparison:
    """A comparison whose variants take the same seconds a token in each round."""
    traces = {name: [Trace(0.0, (0.0, time))] * 5 for name, time in times.items()}
    return Comparison(NO_CACHE, traces | {again(NO_CACHE): traces[NO_CACHE]}, {})


def earlier(times: dict[str, float], limit_rate: float = 1e9) -> Earlier:
    """What is known before the comparison: steps after 4 and 10 tokens, at 1 kB/s.

    limit_rate: bytes/s of the limits.
    """

    def cost(kind: str, context: int) -> Cost:
        flops = float(context + 1 if kind == NO_CACHE else 1)
        return Cost(0.0, 100.0 * context, 0.0, 0.0, flops, 0.0)

    lab = SimpleNamespace(
        hardware=SimpleNamespace(bandwidth=lambda _: 1000.0),
        least=lambda cost: Least(cost.read_bytes / limit_rate),
    )
    found = Earlier(lab, {}, 4, 10, 5, cost)
    vars(found)["comparison"] = of(times)
    return found


TIMES = {SHORTER: 5.0, NO_CACHE: 11.0, GROWING: 2.0, STATIC: 1.0, NARROW: 1.0}


def test_predictions_add_bytes_with_a_cache_and_rows_without():
    known = earlier(TIMES)
    assert known.expected(STATIC, 30) == pytest.approx(1 + 2000 / 1000)
    assert known.expected(GROWING, 30) == pytest.approx(2 + 3 * 2000 / 1000)
    assert known.expected(NO_CACHE, 10) == pytest.approx(11)
    assert known.expected(NO_CACHE, 4) == pytest.approx(5)
    assert known.expected(NO_CACHE, 20) == pytest.approx(1 + 20)
    assert known.expected(NO_CACHE, 0) == pytest.approx(1)  # a single row, as with a cache
    assert known.reach == 20


def test_rows_that_cost_no_time_are_not_predicted_to_save_any():
    known = earlier(TIMES | {NO_CACHE: 4.8})
    assert known.expected(NO_CACHE, 1000) == pytest.approx(4.8)


def test_no_step_is_predicted_below_its_limit_unless_earlier_ones_beat_it():
    """Steps after 10 tokens took 4.8 s, and are predicted to stay so; at 400 B/s a step after 100
    tokens takes 25 s at least."""
    known = earlier(TIMES | {NO_CACHE: 4.8, STATIC: 3.0}, limit_rate=400.0)
    assert known.limit(NO_CACHE, 100) == Least(25.0)
    assert known.expected(NO_CACHE, 100) == pytest.approx(25.0)
    assert known.limit(GROWING, 100) is None  # 2 s, where the limit was 2.5 s
    assert known.expected(GROWING, 10) == pytest.approx(2.0)


def test_predictions_are_held_against_what_comes_later(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    rows: list[dict[str, object]] = []
    monkeypatch.setattr(kv_cache_earlier, "say", said.append)
    monkeypatch.setattr(kv_cache_earlier, "table", lambda found, caption: rows.extend(found))
    known, later = earlier(TIMES), of({NO_CACHE: 63.0, GROWING: 30.0, STATIC: 6.1})
    gain = known.speedup(STATIC, 30, later)
    assert gain.expected == pytest.approx(31 / 3)
    assert gain.measured.value == pytest.approx(63 / 6.1)
    known.hold([(kind, 30, later) for kind in later.variants])
    assert [row.get("speedup held", "–") == "no" for row in rows] == [False, True, False]
    assert {row["time held"] for row in rows} == {"no"}  # the machine is half as fast
    assert "of 2 lie inside the measured interval" in said[0]
    assert f"The others: {GROWING} after 30 (+84.5%). For comparison, had each been" in said[0]
    assert "2.03 times as long as predicted" in said[1]


@pytest.fixture(scope="module")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> study.Study:
    """On a model so small that its window never drops a token in an answer."""
    model = str(save_tiny_model(tmp_path_factory.mktemp("model")))
    return study.Study(
        model, "cpu", prompt_tokens=12, new_tokens=3, check_tokens=32, contexts=[8, 24],
        longest_without=8, window=16, quality_tokens=64, rounds=5,
    )  # fmt: skip


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(study, "say", found.append)
    return found


def test_predictions_are_told_before_anything_is_compared(tiny_study, told):
    tiny_study.predict()
    assert "comparison" not in vars(tiny_study)
    assert "comparisons" not in vars(tiny_study.curve)
    assert "another text" in " ".join(told)


def test_every_variant_is_held_against_the_bytes_or_products_of_its_own(tiny_study):
    found = tiny_study.comparison
    assert set(found.bare) == {(kind, "tpot") for kind in tiny_study.kinds}
    assert found.variants == tiny_study.kinds
    for kind in tiny_study.kinds:
        assert found.share(kind).value > 0
        need = tiny_study.lab.need(tiny_study.cost(kind, tiny_study.middle))
        bare = found.bare[kind, "tpot"]
        if need.work is None:
            assert bare.name.startswith("bare read of ")


def test_the_curve_leaves_out_no_cache_where_it_would_take_long(tiny_study):
    curve = tiny_study.curve
    assert list(curve.means(NO_CACHE)) == curve.without == [8]
    assert list(curve.means(STATIC)) == list(curve.shares(STATIC)) == [8, 24]
    assert tiny_study.ends == dict.fromkeys(tiny_study.makers, 24) | {NO_CACHE: 8}
    assert tiny_study.earlier.reach == 18


def test_a_window_that_never_slid_has_no_finding_and_the_page_says_so(tiny_study, told):
    tiny_study.against_limit()
    assert "dropped no token" in " ".join(told)
    pairs = [(finding.variant, finding.baseline) for finding in tiny_study.findings()]
    assert pairs == [(GROWING, NO_CACHE), (STATIC, NO_CACHE), (GROWING, STATIC)]


def test_the_answers_of_32_tokens_are_compared(tiny_study):
    assert {found.tokens for found in tiny_study.same.values()} == {32}


def test_what_the_intervals_do_not_tell_apart_is_not_measurable():
    same = interval([1.0, 1.2, 0.9, 1.1, 1.0])
    longer = interval([2.0, 2.2, 1.9, 2.1, 2.0])
    told = sentences.of_context(64, 1024, same, same, 1e6, 1e-3)
    assert "no change is measurable" in told
    told = sentences.of_context(64, 1024, same, longer, 1e6, 1e-3)
    assert "Measured: " in told
    assert told.endswith(" more.")
    assert sentences.of_context(64, 1024, longer, same, 1e6, 1e-3).endswith(" less.")


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
    with pytest.raises(ParameterError, match="contexts is .*; allowed: a list, not empty"):
        study.run(contexts=contexts, model="/none")


@pytest.mark.parametrize(
    "wrong",
    [{"window": 0}, {"quality_tokens": 1}, {"rounds": 2}, {"new_tokens": 1}, {"curve_rounds": 4}],
)
def test_numbers_that_no_study_can_use_are_refused_before_anything_is_loaded(wrong):
    with pytest.raises(ParameterError, match="02_kv_cache: .*; allowed: whole numbers from"):
        study.Study(model="/nowhere", **wrong)
