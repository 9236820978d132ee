"""The learned head: its text, its training, its fused form, and speculation with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from labkit.errors import ModelError, ParameterError
from labkit.model.generate import generate
from labkit.model.load import load
from labkit.model.rows import Rows
from labkit.optimize.fused import load_fused
from labkit.optimize.speculative import (
    Accounting,
    Chooser,
    Fixed,
    Head,
    LearnedHead,
    PlainHead,
    RowCosts,
    free_rows,
    fused_head,
    head_cost,
    load_head,
    replay,
    save_head,
    speculate,
)
from labkit.optimize.speculative.draft import Proposal
from labkit.optimize.speculative.head_draft import Guess, HeadCost
from labkit.optimize.speculative.own_text import Writer, turns
from labkit.optimize.speculative.train_head import (
    Recipe,
    batches,
    frequent,
    head_path,
    loss_of,
    share_foreseen,
    train,
)
from tests.fused_helpers import Int8Linear, plain_twin, tiny_gguf
from tests.tiny import save_tiny_model

PROMPT = [5, 60, 33, 2, 41, 7, 7, 19]


class Letters:
    """A tokenizer without a chat template: a letter is a token."""

    chat_template, bos_token_id, eos_token_id = None, 1, 2

    def encode(self, text: str, **_: object) -> list[int]:
        return [ord(letter) % 97 for letter in text]


class Chatting(Letters):
    chat_template = "there is one"

    def apply_chat_template(self, messages, **_: object) -> str:
        return f"<u>{messages[0]['content']}</u><a>"


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    return load_fused(
        tiny_gguf(tmp_path_factory.mktemp("tiny") / "a.gguf", "llama", "Q8_0"), threads=2
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    decoder = plain_twin(tiny_gguf(tmp_path_factory.mktemp("tiny") / "a.gguf", "llama", "Q8_0"))
    for module in decoder.modules():
        if isinstance(module, Int8Linear):
            module.__class__ = nn.Linear
    return decoder


@pytest.fixture(scope="module")
def texts(fused):
    return list(Writer(fused, Letters(), slots=3, question=9, answer=30).texts(2000))


@pytest.fixture(scope="module")
def head(plain):
    torch.manual_seed(3)
    made = Head.of(plain, torch.randperm(97)[:64])
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, plain):
    """A model directory with nothing but the description of the shape."""
    c = plain.config
    folder = tmp_path_factory.mktemp("model")
    raw = {
        "model_type": "llama", "vocab_size": c.vocab_size, "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim,
        "rms_norm_eps": c.rms_norm_eps, "rope_theta": c.rope_theta, "hidden_act": "silu",
        "max_position_embeddings": c.max_positions, "tie_word_embeddings": c.tied_head,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def test_turns_of_a_chat_and_of_plain_text() -> None:
    letters = Letters().encode
    assert turns(Chatting()) == (letters("<u>"), letters("</u><a>"))
    assert turns(Letters()) == ([1], letters("\n"))


def test_own_text_is_what_the_target_says_with_its_very_streams(fused, texts) -> None:
    assert sum(len(text.tokens) for text in texts) >= 2000
    for text in texts[:5]:
        ids = text.tokens.tolist()
        assert ids[0] == 1
        assert text.features.shape == (len(ids) - 1, 64)
        whole = Rows.prefill(ids[:-1], all_logits=True)
        logits, streams = fused.traced(whole, fused.new_cache(1, len(ids)))
        assert torch.equal(streams.half(), text.features)
        answer = 1 + 9 + 1 if len(ids) > 11 else len(ids)  # opening, question, the newline
        assert logits.argmax(-1)[answer - 1 :].tolist() == ids[answer:]


def test_writing_ends_in_time(fused) -> None:
    assert not list(Writer(fused, Letters(), slots=3, question=9, answer=30).texts(2000, 0.0))


def test_agreement_is_with_the_targets_likeliest_token(plain, texts) -> None:
    ids = torch.arange(97)
    head = Head.of(plain, ids)
    told = share_foreseen(head, plain, texts[:5])
    twin = PlainHead(head, plain)
    same = places = 0
    for text in texts[:5]:
        tokens, features = text.tokens.tolist(), text.features.float()
        rows = Rows.prefill(tokens[1:-1], all_logits=True)
        logits, _ = twin.traced(rows, twin.new_cache(1, len(tokens)), features[:-1])
        wanted = plain.lm_head(plain.norm(features[1:])).argmax(-1)
        same, places = same + int((logits.argmax(-1) == wanted).sum()), places + len(wanted)
    assert told == pytest.approx(same / places)
    few = Head.of(plain, ids[:1])  # which can name one token alone
    assert share_foreseen(few, plain, texts[:5]) < 0.5


def test_the_words_kept_are_the_most_frequent(texts) -> None:
    counts = torch.cat([text.tokens for text in texts]).bincount(minlength=97)
    kept = frequent(texts, 10, 97)
    assert counts[kept].tolist() == sorted(counts.tolist(), reverse=True)[:10]


def test_training_lowers_the_loss(plain, texts) -> None:
    recipe = Recipe(minutes=0.1, words=64, length=40, texts=4, own=0.25)
    head, history = train(plain, texts, recipe)
    fresh = Head.of(plain, head.ids)
    batch = next(batches(texts, Recipe(seed=9, length=40, texts=16)))
    with torch.no_grad():
        before, _ = loss_of(fresh, plain, batch, 0.0)
        after, _ = loss_of(head, plain, batch, 0.0)
    assert len(history) > 10
    assert after < before - 0.1


def test_a_text_at_once_and_row_by_row_are_the_same(plain, head) -> None:
    tokens = torch.tensor([PROMPT])
    features = torch.randn(1, 7, 64)
    whole = head.streams(plain.embed_tokens(tokens[:, 1:]), features, plain.rope(torch.arange(7)))
    twin = PlainHead(head, plain)
    cache, found = twin.new_cache(1, 10), []
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        rows = Rows.prefill(PROMPT[start + 1 : stop + 1], start=start)
        found.append(twin.traced(rows, cache, features[0, start:stop])[1])
    torch.testing.assert_close(torch.cat(found), whole[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("form", "off"), [("q8_0", 0.05), ("q4_1", 0.35)])
def test_the_fused_head_is_its_plain_twin(fused, plain, head, directory, form, off) -> None:
    native = fused_head(head, fused, directory, form)
    twin = PlainHead(head, plain)
    features = torch.randn(40, 64)
    rows = Rows.prefill([(3 * n) % 97 for n in range(40)], all_logits=True)
    ours, _ = native.traced(rows, native.new_cache(1, 40), features)
    theirs, _ = twin.traced(rows, twin.new_cache(1, 40), features)
    assert ours.shape == theirs.shape == (40, 64)
    assert (ours - theirs).abs().mean() < off * theirs.std()


@pytest.mark.parametrize("count", [1, 3, 200])
def test_guesses_are_the_likeliest_of_the_logits(fused, plain, head, directory, count) -> None:
    features = torch.randn(6, plain.config.hidden_size)
    for forward in (fused_head(head, fused, directory), PlainHead(head, plain)):
        cache, other = (forward.new_cache(1, 9) for _ in range(2))
        forward.traced(Rows.prefill(PROMPT[:2]), other, features[:2])
        rows = Rows.prefill(PROMPT[2:6], start=2)
        logits, streams = forward.traced(rows, other, features[2:])
        found = torch.zeros(5, plain.config.hidden_size)
        forward.guesses(PROMPT[:2], cache, 1, found, features, 0)
        words, chances = forward.guesses(PROMPT[2:6], cache, count, found, features, 2)
        expected = logits[0].softmax(-1).sort(descending=True, stable=True)
        assert words == expected.indices[:count].tolist()
        assert torch.allclose(torch.tensor(chances), expected.values[:count], atol=1e-6)
        assert torch.equal(found[:4], streams)
        assert not found[4:].any()


def test_the_fused_head_does_not_mind_company(fused, head, directory) -> None:
    native = fused_head(head, fused, directory)
    features = torch.randn(9, 64)
    whole, streams = native.traced(
        Rows.prefill([*PROMPT, 3], all_logits=True), native.new_cache(1, 16), features
    )
    cache = native.new_cache(1, 16)
    for n, token in enumerate([*PROMPT, 3]):
        alone, stream = native.traced(Rows.prefill([token], start=n), cache, features[n : n + 1])
        assert torch.equal(alone[0], whole[n])
        assert torch.equal(stream[0], streams[n])


@pytest.mark.parametrize("costs", [None, free_rows(9), RowCosts(1.0, (1.0, 1.2, 1.5, 1.9, 2.5))])
def test_drafts_of_the_head_change_no_answer(fused, head, directory, costs) -> None:
    expected = list(generate(fused, PROMPT, 120))
    draft = LearnedHead(fused_head(head, fused, directory), head.ids, costs, HeadCost(0.1, 0.1))
    assert list(speculate(fused, draft, PROMPT, 120, control=Fixed(4))) == expected
    assert draft.passes > 0
    chooser = Chooser(costs or free_rows(9), draft)
    assert list(speculate(fused, chooser, PROMPT, 120, control=Fixed(4))) == expected


COSTS = RowCosts(1.0, (1.0, 1.05, 1.1, 1.2, 1.6, 2.0))


@pytest.mark.parametrize(
    ("chain", "tokens", "parents"),
    [
        # A sure token, then nothing sure: one row.
        ([Guess([7, 8], [0.9, 0.01], [0.9, 0.01]), Guess([4], [0.01], [0.009])], [7], ()),
        # Both passes sure: a chain.
        ([Guess([7, 8], [0.9, 0.0], [0.9, 0.0]), Guess([4], [0.9], [0.8])], [7, 4], ()),
        # Two likely first tokens, and one after the likelier: a tree of three rows.
        (
            [Guess([7, 8, 9], [0.5, 0.3, 0.1], [0.5, 0.3, 0.1]),
             Guess([4, 5, 6], [0.6, 0.2, 0.1], [0.3, 0.1, 0.05])],
            [7, 8, 4], (-1, -1, 0),
        ),
        # No token is worth a row.
        ([Guess([7, 8], [0.02, 0.02], [0.02, 0.02])], [], ()),
    ],
)  # fmt: skip
def test_the_rows_worth_verifying_by_hand(plain, head, chain, tokens, parents) -> None:
    draft = LearnedHead(PlainHead(head, plain), head.ids, COSTS, HeadCost(0.1, 0.1))
    draft.begin(PROMPT, 40)
    assert draft._worth_verifying(chain, 9) == Proposal(tokens, parents=parents)
    assert len(draft._worth_verifying(chain, 1).tokens) <= 1


def test_a_head_that_never_gains_is_asked_less_and_less(plain, head) -> None:
    draft = LearnedHead(PlainHead(head, plain), head.ids, COSTS, HeadCost(first=0.5, further=0.5))
    accounting = Accounting()
    list(speculate(plain, draft, PROMPT, 200, control=Fixed(5), accounting=accounting))
    assert draft.gain < 1
    assert draft.passes < 60


def test_of_a_long_prompt_the_head_reads_the_end(fused, head, directory) -> None:
    prompt = [(5 * n * n + n) % 97 for n in range(300)]
    expected = list(generate(fused, prompt, 40))
    native = fused_head(head, fused, directory)
    draft = LearnedHead(native, head.ids)
    assert list(speculate(fused, draft, prompt, 40, control=Fixed(3))) == expected
    ((_, cache),) = draft.spare
    assert cache.length(0) < 128 + 40 + 3


def test_a_later_request_takes_the_cache_that_an_earlier_one_left(fused, head, directory) -> None:
    native, spare = fused_head(head, fused, directory), []
    runs = []
    for length in (60, 60, 20, 80):
        draft, account = LearnedHead(native, head.ids, spare=spare), Accounting()
        list(speculate(fused, draft, PROMPT, length, control=Fixed(3), accounting=account))
        runs.append((account.outcomes, spare[0][1]))
        assert len(spare) == 1
    assert runs[0] == runs[1]  # nothing of the first request is seen by the second
    assert runs[2][1] is runs[0][1] is not runs[3][1]  # which needs a longer one


def test_the_same_over_the_plain_decoder(plain, head) -> None:
    expected = list(generate(plain, PROMPT, 60))
    draft = LearnedHead(PlainHead(head, plain), head.ids)
    assert list(speculate(plain, draft, PROMPT, 60, control=Fixed(3))) == expected


def test_a_replay_with_streams_asks_what_the_run_asked(fused, head, directory) -> None:
    answer = list(generate(fused, PROMPT, 80))
    text = [*PROMPT, *answer]
    _, streams = fused.traced(Rows.prefill(text), fused.new_cache(1, len(text)))
    native = fused_head(head, fused, directory)
    ran, replayed = (LearnedHead(native, head.ids) for _ in range(2))
    real = Accounting()
    list(speculate(fused, ran, PROMPT, 80, control=Fixed(3), accounting=real))
    foreseen = replay(fused.config, replayed, PROMPT, answer, Fixed(3), streams=streams)
    assert foreseen.outcomes == real.outcomes
    assert replayed.passes == ran.passes
    with pytest.raises(ParameterError, match="on the text.s streams"):
        replay(fused.config, LearnedHead(native, head.ids), PROMPT, answer, Fixed(3))


def test_a_head_that_knows_the_answers_foresees_them(fused, plain, texts, directory) -> None:
    """Trained to overfit a handful of texts. At 8 bits, for so small a head loses much at 4."""
    recipe = Recipe(minutes=0.1, words=97, length=40, texts=4, own=0.0, rate=3e-3)
    head, _ = train(plain, texts[:4], recipe)
    native = fused_head(head, fused, directory, "q8_0")
    accepted = proposed = 0
    for text in texts[:4]:
        ids = text.tokens.tolist()
        _, streams = fused.traced(Rows.prefill(ids), fused.new_cache(1, len(ids)))
        draft = LearnedHead(native, head.ids)
        account = replay(fused.config, draft, ids[:12], ids[12:], Fixed(2), streams=streams)
        accepted, proposed = accepted + account.accepted, proposed + account.proposed
    assert accepted > 0.5 * proposed


def test_a_head_is_kept_with_its_recipe(plain, head, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_head(head, path, {"minutes": 30, "model": "tiny"})
    found, recipe = load_head(plain, path)
    assert recipe == {"minutes": 30, "model": "tiny"}
    assert all(
        torch.equal(a, b)
        for a, b in zip(found.state_dict().values(), head.state_dict().values(), strict=True)
    )
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="no draft head of this model"):
        load_head(plain, path)


def test_a_head_is_found_by_its_models_weights_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    save_tiny_model(tmp_path / "here" / "model")
    for name in ("there", "other"):
        shutil.copytree(tmp_path / "here", tmp_path / name)
    weights = tmp_path / "other" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    here, there, other = (
        head_path(load(tmp_path / name / "model", "cpu")) for name in ("here", "there", "other")
    )
    assert here == there != other


def test_a_head_of_another_model_is_refused(fused, plain) -> None:
    head = Head(replace(plain.config, vocab_size=90), torch.arange(9))
    with pytest.raises(ParameterError, match="was trained for streams of"):
        speculate(fused, LearnedHead(PlainHead(head, plain), head.ids), PROMPT, 5)


def test_features_where_none_are_read_are_refused_and_change_nothing(fused) -> None:
    cache = fused.new_cache(1, 16)
    with pytest.raises(ValueError, match="a draft head reads features"):
        fused.traced(Rows.prefill(PROMPT), cache, torch.zeros(len(PROMPT), 64))
    with pytest.raises(ValueError, match="for 8 rows"):
        fused.traced(Rows.prefill(PROMPT), cache, torch.zeros(3, 64))
    assert cache.length(0) == 0


def test_what_a_head_costs_is_told_in_passes_of_the_target(fused, head, directory) -> None:
    native = fused_head(head, fused, directory)
    cost = head_cost(native, fused, RowCosts(1e-3, (1.0, 1.1)), context=20, repeats=3)
    assert cost.first > 0 <= min(cost)
    draft = LearnedHead(native, head.ids, free_rows(6), cost)
    list(speculate(fused, draft, PROMPT, 40, control=Fixed(5)))
    assert draft.caught_up >= len(PROMPT) - 1
    first, further, read = draft.asked
    assert 0 < first <= first + further == draft.passes
    assert read == draft.caught_up
