"""Notebook 05: numbers and sentences from counts; the marked text; a study on a tiny model."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts
from labkit.model.load import load
from labkit.optimize.speculative import PromptLookup
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.quality.lossless import SameAnswer
from labkit.studies import speculative_figures as figures
from labkit.studies import speculative_tables as tables
from labkit.studies.speculative import Study
from labkit.studies.speculative_forecast import CountsHead, foreseen
from labkit.studies.speculative_others import TRANSFORMERS, lookups, other_engines
from labkit.studies.speculative_target import KeptHead, Target, fastest
from labkit.studies.speculative_tasks import (
    AUTOMATIC,
    Case,
    Setting,
    answered,
    own_layers,
    sampled,
    settings,
)
from labkit.workload.tasks import Task
from tests.tiny import save_tiny_model, tiny_decoder

COSTS = RowCosts(0.5, (1.0, 1.1, 1.3, 1.6))


def account(*passes: tuple[int, int]) -> Accounting:
    """Passes of (tokens sent, tokens accepted), a second of verifying each."""
    found = Accounting()
    for sent, accepted in passes:
        found.note(sent, accepted, accepted + 1, 1.0)
    return found


# Numbers and rows


def test_acceptance_and_tokens_a_pass_are_of_all_requests_together() -> None:
    each = [account((2, 2), (2, 0)), account((4, 1))]
    assert tables.acceptance(each) == pytest.approx(3 / 8)
    assert tables.tokens_a_pass(each) == pytest.approx((3 + 1 + 2) / 3)
    assert tables.accepted_and_given(each) == "0.38 · 2.00"
    assert tables.acceptance([account((0, 0))]) == 0


def test_a_row_says_where_the_time_of_a_token_goes() -> None:
    one = account((1, 1), (1, 0))  # 3 tokens in 2 s, half of the second pass lost
    one.drafting = 0.3
    (row,) = tables.where_time_goes({"a setting": [one]})
    assert row["tokens a pass"] == pytest.approx(1.5)
    assert row["verifying, a token"] == "667 ms"
    assert row["drafting, a token"] == "100 ms"
    assert row["lost to rejected rows"] == "25%"


def test_a_draft_pays_from_the_acceptance_that_repays_its_rows() -> None:
    # One token drafted: 1 + a tokens for r(2) = 1.1 passes.
    assert tables.pays(1, COSTS) == "from an acceptance of 0.10 on"
    assert tables.pays(1, RowCosts(1.0, (1.0, 2.0))) == "at no acceptance"
    assert tables.pays(1, RowCosts(1.0, (1.0, 1.0))) == "at any acceptance"


def test_a_machine_is_told_by_its_best_task() -> None:
    (row,) = tables.machines({"here": COSTS}, 2, [account((1, 1)), account((1, 0))])
    assert row["r(3)"] == 1.3
    assert row["automatic could give"] == pytest.approx(2 / 1.1)


def test_ties_are_told_only_where_there_are_any() -> None:
    equal, tie = SameAnswer(10, 10), SameAnswer(10, 4, margin=1e-5)
    assert "tie" not in tables.told_same([equal, equal])
    assert "**1 of 2**" in tables.told_same([equal, tie])
    assert "; 1 first differ at a tie" in tables.told_same([equal, tie])


def test_a_head_is_told_with_its_recipe_and_cost() -> None:
    recipe = {"minutes": 41.7, "tokens": 1234567, "agreement": 0.551}
    head = KeptHead(None, None, recipe, [], HeadCost(0.412, 0.2, 0.0))  # type: ignore[arg-type]
    told = tables.told_head(head)
    for part in ("42 minutes", "1,234,567", "55%", "0.41 passes", "0.20"):
        assert part in told
    assert "head.train" in tables.told_head(None)


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


def test_a_step_of_the_target_reads_its_own_weights() -> None:
    decoder = tiny_decoder()
    plain = Target("plain decoder", decoder).step_cost(100, "float32")
    assert plain.kv_read_bytes == 100 * decoder.config.kv_bytes_per_token(4)
    decoder.weight_bytes = 1234.0  # as a decoder that is Weighed
    packed = Target("packed", decoder).step_cost(100, "float32")
    assert packed.weight_bytes == 1234.0
    assert packed.kv_read_bytes == 100 * decoder.config.kv_bytes_per_token(2)


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


# The study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """On a tiny model; nothing in it is timed before a test looks at it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("model"))
    return Study(
        model=str(folder), device="cpu", new_tokens=12, tasks_a_kind=1, rows=[1, 2, 4],
        context=16, row_rounds=2, length=2, outside_tasks=1, compare_transformers=False,
    )  # fmt: skip


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
        assert {len(of) for of in study.foreseen[kind].values()} == {len(cases)}
        assert study.skipped[kind].account.tokens == 11  # the prompt's pass gives the first


def test_the_limit_takes_as_many_passes_as_drafts_leave(study: Study, monkeypatch) -> None:
    from labkit.studies.speculative_forecast import Foreseen
    from labkit.studies.speculative_measured import Timed

    timed = Timed(None, {AUTOMATIC: [Foreseen(account((3, 1), (3, 3)))]}, {})  # type: ignore[arg-type]
    monkeypatch.setitem(vars(study), "timed", {"chat": timed})
    least = study._least("chat")(1e9)
    assert least == pytest.approx(study.one_pass.read_bytes / 3 / 1e9)


def test_loaded_models_of_another_device_are_not_fused(tmp_path: Path) -> None:
    loaded = load(save_tiny_model(tmp_path), "cpu")
    loaded.decoder.to(torch.device("meta"))
    found = fastest(loaded)
    assert found.name == "plain decoder"
    assert "CPU only" in found.reason
