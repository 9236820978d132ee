"""Notebook 05: the marked text, the target, drafts and other engines; a study on a tiny model."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from labkit.engine.accounting import Accounting
from labkit.limits.cost import matrix_parameters
from labkit.limits.hardware import Hardware, Reading
from labkit.model.load import load
from labkit.optimize.speculative import PromptLookup, limit_costs
from labkit.optimize.speculative.predict import mixed_speedup
from labkit.studies import speculative_figures as figures
from labkit.studies.speculative import Study
from labkit.studies.speculative_findings import kind_finding
from labkit.studies.speculative_forecast import CountsHead, foreseen
from labkit.studies.speculative_others import (
    TRANSFORMERS,
    lookups,
    other_engines,
    rows_of_others,
)
from labkit.studies.speculative_target import Target, fastest
from labkit.studies.speculative_tasks import (
    AUTOMATIC,
    Case,
    Setting,
    answered,
    own_layers,
    sampled,
    settings,
    speculated,
)
from labkit.timing.compare import Comparison
from labkit.timing.statistics import geometric_mean
from labkit.timing.trace import Trace
from labkit.workload.tasks import KINDS, OUTSIDE, Task
from tests.fused_helpers import tiny_gguf
from tests.speculative_stubs import COSTS
from tests.tiny import save_tiny_model, tiny_decoder

# The marked text


class Bytes:
    """A tokenizer whose tokens are bytes."""

    chat_template = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")


def test_text_is_marked_by_whole_characters() -> None:
    tokens = Bytes().encode("aé€b")  # of 1, 2, 3 and 1 tokens
    flags = [True, True, True, True, False, True, False]
    found = figures.whole_characters(Bytes().decode, tokens, flags)
    assert found == [("a", True), ("é", True), ("€", False), ("b", False)]


def test_an_unfinished_last_character_is_not_shown() -> None:
    tokens = Bytes().encode("a€")[:-1]
    found = figures.whole_characters(Bytes().decode, tokens, [True, False, False])
    assert found == [("a", True)]


def test_real_tokens_that_split_characters_leave_no_gap(real_model) -> None:
    tokenizer, text = real_model.tokenizer, "naïve 推理 – 極限 🚀 done"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    flags = [n % 2 == 0 for n in range(len(tokens))]
    found = figures.whole_characters(tokenizer.decode, tokens, flags)
    assert "".join(piece for piece, _ in found) == text
    assert not any("\ufffd" in piece for piece, _ in found)


def test_marked_text_is_escaped_and_neighbours_share_a_mark(monkeypatch) -> None:
    shown = []
    monkeypatch.setattr(figures, "show_html", lambda markup, text: shown.append(markup))
    figures.drafted_text([("<b>", True), ("&", True), ("plain", False)])
    (markup,) = shown
    assert f"<mark>{html.escape('<b>&')}</mark>plain" in markup


# The target, drafts, and other engines


def test_the_plain_decoder_serves_where_the_fused_one_cannot(llama) -> None:
    found = fastest(llama.model, str(llama.model.directory))  # sizes the kernel does not serve
    assert found.decoder is llama.model.decoder
    assert "fused decoder does not run" in found.reason
    assert found.weight_bytes is None


def test_a_pass_of_the_target_reads_its_own_weights_and_cache() -> None:
    decoder = tiny_decoder()
    plain = Target("plain decoder", decoder).cost(100, 3, "float32")
    assert plain.kv_read_bytes == 100 * decoder.config.kv_bytes_per_token(4)
    assert plain.dtype == "float32"
    decoder.weight_bytes = 1234.0  # as a decoder that is Weighed
    packed = Target("packed", decoder, products="int8").cost(100, 3, "float32")
    assert packed.weight_bytes == 1234.0
    assert packed.kv_read_bytes == 100 * decoder.config.kv_bytes_per_token(2)
    assert packed.dtype == "int8"
    assert packed.flops == plain.flops


def test_rows_of_the_fused_decoder_are_int8_products_and_float32_attention(
    llama, tmp_path: Path
) -> None:
    target = fastest(llama.model, str(tiny_gguf(tmp_path / "a.gguf", "llama", "Q8_0")))
    assert (target.name, target.products, target.attention) == ("fused decoder", "int8", "float32")
    assert target.format == "q8_0"
    assert target.runs_on(torch.device("cpu")).split()[0] == str(target.decoder.threads)
    reading = {"int8": Reading(1e3, 1e3, 0.0), "float32": Reading(1e30, 1e30, 0.0)}
    slow = Hardware("slow", "cpu", 1, {1: Reading(1e30, 1e30, 0.0)}, reading)
    # Only int8 products take time there: n rows take n times as long as one.
    found = limit_costs(
        lambda rows: target.cost(8, rows, "float32"), slow, (1, 2, 4), attention=target.attention
    )
    assert found.relative == pytest.approx((1, 2, 3, 4))


def test_own_layers_draft_with_a_share_of_them() -> None:
    decoder = tiny_decoder(layers=4)
    setting, kept = own_layers(decoder, [3, 1, 4, 1, 5, 9, 2, 6], 0.5, 3)
    assert kept == 2
    assert setting.draft().decoder.config.layers == 2
    assert setting.control().limit() == 3


def test_a_draft_that_copies_changes_no_sampled_token() -> None:
    decoder = tiny_decoder(vocab_size=300, max_positions=400)
    (case,) = answered(decoder, Bytes(), [Task("a", "chat", "banana " * 9)], 24)
    assert sampled(decoder, case) == sampled(decoder, case, PromptLookup())


def test_streams_are_kept_of_a_target_that_shows_them() -> None:
    decoder = tiny_decoder(vocab_size=300, max_positions=400)
    (case,) = answered(decoder, Bytes(), [Task("a", "chat", "banana " * 9)], 24)
    assert case.streams is not None
    text = len(case.prompt) + len(case.answer)
    assert case.streams.shape == (text, decoder.config.hidden_size)
    assert len(case.beginning(5).answer) == 5


class Counting(PromptLookup):
    """A draft that says what a head of it did."""

    @property
    def asked(self) -> tuple[int, int, int]:
        return 1, 2, 3


def test_a_forecast_takes_the_counts_of_a_draft_with_a_head() -> None:
    config = tiny_decoder().config
    case = Case(Task("a", "chat", "?"), [1, 2, 3, 1, 2], [3, 1, 2])
    control = settings(COSTS, 2)[AUTOMATIC].control
    assert foreseen(config, case, Setting(PromptLookup, control)).asked == (0, 0, 0)
    assert isinstance(Counting(), CountsHead)
    assert foreseen(config, case, Setting(Counting, control)).asked == (1, 2, 3)


def test_other_engines_need_a_gguf_file_and_a_wish(tmp_path: Path) -> None:
    from labkit.bench.client import Source

    where = Source("a model", tmp_path, None)
    assert lookups(where) == []
    case = Case(Task("a", "chat", "?"), [1], [2])
    with other_engines(where, case, 1, with_peers=False) as found:
        assert found == ({}, {})
    ways = [how(tiny_decoder(layers=9).config) for how in TRANSFORMERS.values()]
    assert ways == [{}, {"prompt_lookup_num_tokens": 10}, {"assistant_early_exit": 3}]


def test_an_engine_with_drafts_stands_beside_itself_without() -> None:
    taken = {"transformers": 4.0, "transformers, prompt lookup": 5.0, "ours, without drafts": 2.0,
             "ours, automatic": 1.0, "llama.cpp:lookup": 3.0}  # fmt: skip
    traces = {name: [Trace(0.0, (seconds,))] * 5 for name, seconds in taken.items()}
    found = Comparison(
        "transformers", traces | {"transformers (again)": traces["transformers"]}, {}
    )
    told = {str(row.pop("engine and method")): row for row in rows_of_others(found)}
    beside = {name: row["against itself without drafts"] for name, row in told.items()}
    assert beside["transformers, prompt lookup"] == "0.80x [0.80, 0.80]"
    assert beside["ours, automatic"] == "2.00x [2.00, 2.00]"
    assert beside["transformers"] == beside["ours, without drafts"] == "–"
    assert beside["llama.cpp:lookup"] == "–"  # which did not run without drafts
    assert told["ours, without drafts"]["against transformers"] == "2.00x [2.00, 2.00]"


# The study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """On a tiny model; nothing in it is timed before a test looks at it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("model"))
    return Study(
        model=str(folder), device="cpu", new_tokens=12, tasks_a_kind=2, calibration_tasks=1,
        rows=[1, 2, 4], context=16, row_rounds=2, length=2, outside_tasks=1,
        compare_transformers=False,
    )  # fmt: skip


def test_costs_are_measured_once_and_beside_the_calibration_tasks(study: Study) -> None:
    assert sorted(study.costs.measured) == [1, 2, 3, 4]  # the rows of a draft of two tokens too
    assert study.costs is study.calibration.costs
    calibrating = {case.task.name for case in study.calibration.cases}
    assert {case.task.kind for case in study.calibration.cases} == set(KINDS + OUTSIDE)
    assert calibrating.isdisjoint(case.task.name for case in study.cases)
    assert not any(c.task.held_out for c in study.calibration.cases if c.task.kind in KINDS)
    assert study.calibration.spread > 0


def test_a_study_checks_every_case_with_every_setting(study: Study) -> None:
    assert {len(each) for each in study.checked.values()} == {len(study.cases)}
    assert list(study.checked) == ["prompt lookup, 2", "suffix index, 2", AUTOMATIC]
    for case, one in zip(study.cases, study.checked[AUTOMATIC], strict=True):
        assert one.same.tokens == len(case.answer) == len(one.account.drafted)


def test_a_changed_answer_stops_the_study(study: Study, monkeypatch) -> None:
    from labkit.studies import speculative_measured

    def wrong(target, case, *_: object) -> list[int]:
        return [(token + 1) % 100 for token in case.answer]

    monkeypatch.setattr(speculative_measured, "speculated", wrong)
    with pytest.raises(AssertionError, match=AUTOMATIC):
        study._check(study.cases[0], AUTOMATIC)


def test_each_kind_has_its_cases_and_its_forecasts(study: Study) -> None:
    assert sum(map(len, study.kinds.values())) == len(study.cases)
    for kind, cases in study.kinds.items():
        assert {case.task.kind for case in cases} == {kind}
        assert len(study.accounts(AUTOMATIC, kind)) == len(cases)
        assert {len(of) for of in study.forecasts[kind].values()} == {1}
        assert study.skipped[kind].account.tokens == 11  # the prompt's pass gives the first


def test_a_forecast_is_what_the_calibration_answer_would_have_taken(study: Study) -> None:
    (case,) = (c for c in study.calibration.cases if c.task.kind == "chat")
    account = Accounting()
    list(speculated(study.target.decoder, case, study.settings[AUTOMATIC], account))
    cost = sum(count * study.costs.r(sent + 1) for (sent, _), count in account.outcomes.items())
    assert study.forecasts["chat"][AUTOMATIC] == [pytest.approx(account.tokens / cost)]


def test_a_drafted_token_of_fewer_layers_costs_their_share_and_the_head(study: Study) -> None:
    parts = matrix_parameters(study.lab.config)
    _, kept = study.own_layers
    layer = parts["layers"] / study.lab.config.layers
    whole = study.lab.config.layers * layer + parts["head"]
    assert study.skipped_cost == pytest.approx((kept * layer + parts["head"]) / whole)


def test_a_finding_is_over_prompts_and_limited_by_the_passes_of_its_drafts(
    study: Study, monkeypatch
) -> None:
    monkeypatch.setitem(vars(study), "kinds", {"chat": study.kinds["chat"]})
    rounds = study.timed["chat"]
    assert rounds.comparison.rounds == 6  # the rounds in which both prompts run equally often
    found = kind_finding(study, "chat")
    assert found.ratios == rounds.each(AUTOMATIC)
    assert found.workload["interval_over"] == "prompts"
    assert found.speedup == pytest.approx(found.value / found.baseline_value)
    share = rounds.share(AUTOMATIC)
    assert (found.of_bare_read, found.of_bare_read_low) == (share.value, share.low)
    cost = study.one_pass("chat")
    tokens = geometric_mean(
        [mixed_speedup(one, study.limit) for one in study.accounts(AUTOMATIC, "chat")]
    )
    if found.limit is not None:  # the limit of so small a model may be beaten
        assert found.limit == pytest.approx(tokens / study.lab.least(cost).seconds)
    assert found.weights == "float32"


def test_loaded_models_of_another_device_are_not_fused(tmp_path: Path) -> None:
    loaded = load(save_tiny_model(tmp_path), "cpu")
    loaded.decoder.to(torch.device("meta"))
    found = fastest(loaded)
    assert found.name == "plain decoder"
    assert "CPU only" in found.reason
