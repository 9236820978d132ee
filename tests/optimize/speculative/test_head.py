"""The learned head: its text, its training, its fused form, and speculation with it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labkit.errors import ModelError, ParameterError
from labkit.model.load import load
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedError, kept
from labkit.optimize.fused.sources import HEAD, rounded
from labkit.optimize.fused.weights import pack, packed
from labkit.optimize.speculative import (
    Head,
    LearnedHead,
    PlainHead,
    fused_head,
    load_head,
    save_head,
    speculate,
)
from labkit.optimize.speculative.head.fused import FusedHead
from labkit.optimize.speculative.head.own_text import Writer, turns
from labkit.optimize.speculative.head.train import (
    Recipe,
    batches,
    frequent,
    head_path,
    loss_of,
    share_predicted,
    train,
)
from tests.fused_helpers import tiny_gguf
from tests.optimize.speculative.conftest import Chatting, Letters
from tests.tiny import save_tiny_model

PROMPT = [5, 60, 33, 2, 41, 7, 7, 19]


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
    told = share_predicted(head, plain, texts[:5])
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
    assert share_predicted(few, plain, texts[:5]) < 0.5


def test_the_words_kept_are_the_most_frequent(texts) -> None:
    counts = torch.cat([text.tokens for text in texts]).bincount(minlength=97)
    kept = frequent(texts, 10, 97)
    assert counts[kept].tolist() == sorted(counts.tolist(), reverse=True)[:10]


def test_training_lowers_the_loss(plain, texts) -> None:
    recipe = Recipe(steps=60, words=64, length=40, texts=4, own=0.25)
    head, history = train(plain, texts, recipe)
    fresh = Head.of(plain, head.ids)
    batch = next(batches(texts, Recipe(seed=9, length=40, texts=16)))
    with torch.no_grad():
        before, _ = loss_of(fresh, plain, batch, 0.0)
        after, _ = loss_of(head, plain, batch, 0.0)
    assert len(history) == 60
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
def test_the_fused_head_is_its_plain_twin(fused, plain, head, form, off) -> None:
    native = fused_head(head, fused, form)
    twin = PlainHead(head, plain)
    features = torch.randn(40, 64)
    rows = Rows.prefill([(3 * n) % 97 for n in range(40)], all_logits=True)
    ours, _ = native.traced(rows, native.new_cache(1, 40), features)
    theirs, _ = twin.traced(rows, twin.new_cache(1, 40), features)
    assert ours.shape == theirs.shape == (40, 64)
    assert (ours - theirs).abs().mean() < off * theirs.std()


@pytest.mark.parametrize("count", [1, 3, 200])
def test_guesses_are_the_likeliest_of_the_logits(fused, plain, head, count) -> None:
    features = torch.randn(6, plain.config.hidden_size)
    for forward in (fused_head(head, fused), PlainHead(head, plain)):
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


def test_the_fused_head_does_not_mind_company(fused, head) -> None:
    native = fused_head(head, fused)
    features = torch.randn(9, 64)
    whole, streams = native.traced(
        Rows.prefill([*PROMPT, 3], all_logits=True), native.new_cache(1, 16), features
    )
    cache = native.new_cache(1, 16)
    for n, token in enumerate([*PROMPT, 3]):
        alone, stream = native.traced(Rows.prefill([token], start=n), cache, features[n : n + 1])
        assert torch.equal(alone[0], whole[n])
        assert torch.equal(stream[0], streams[n])


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


def test_features_that_do_not_fit_are_refused_and_change_nothing(fused, head) -> None:
    native = fused_head(head, fused)
    cache = native.new_cache(1, 16)
    rows, streams = Rows.prefill(PROMPT), torch.zeros(9, 64)
    with pytest.raises(ValueError, match="for 8 rows"):
        native.traced(rows, cache, torch.zeros(3, 64))
    for wrong, first in ((torch.zeros(8, 64).double(), 0), (torch.zeros(8, 64), 1)):
        with pytest.raises(ValueError, match="8 rows from row . on are wanted, 64 float32 each"):
            native.guesses(PROMPT, cache, 3, streams, wrong, first)
    with pytest.raises(ValueError, match="a draft head reads features"):
        fused.engine.forward(native._model, rows, cache)
    with pytest.raises(ValueError, match="a draft head reads features"):
        fused.engine.extend(native._model, cache, Part(0, 0, PROMPT))
    assert cache.length(0) == 0
    own = fused.new_cache(1, 16)
    with pytest.raises(ValueError, match="a draft head reads features"):
        fused.engine.forward(fused.model, rows, own, features=torch.zeros(8, 64))
    assert own.length(0) == 0


def test_a_head_is_packed_in_memory_as_it_is_on_disk(fused, head, tmp_path: Path) -> None:
    config = replace(head.config, tied_head=False)
    weights = [rounded(HEAD, head.words.numpy(), "q8_0")]
    weights += [
        rounded(name.replace("layer.", "layers.0."), tensor.numpy(), "q4_1")
        for name, tensor in head.state_dict().items()
        if name not in ("ids", "words")
    ]
    (tmp_path / "head").mkdir()
    kept.write(weights, tmp_path / "head")
    for threads in (1, 2, 5):
        read = pack(config, kept.read(tmp_path / "head"), threads)
        made = pack(config, weights, threads)
        assert made.locations == read.locations
        assert (made.blob == read.blob).all()
        assert made.read_bytes() == read.read_bytes()


def test_weights_of_another_layout_or_of_no_head_are_refused(fused, head, tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "a.gguf", "llama", "Q8_0")
    with pytest.raises(ValueError, match="laid out for 3 threads, its target's for 2"):
        FusedHead(packed(file, threads=3), fused)
    with pytest.raises(FusedError, match="no draft head"):
        FusedHead(packed(file, threads=2), fused)


def test_a_head_and_its_target_share_their_memory_in_turn(fused, head) -> None:
    """Passes of other shapes between change nothing: what one leaves behind, none reads."""
    native, features = fused_head(head, fused), torch.randn(8, 64)
    alone = native.traced(Rows.prefill(PROMPT), native.new_cache(1, 16), features)
    step = [Part(0, 0, PROMPT)]
    expected = fused.greedy(step, fused.new_cache(1, 16))
    for count in (1, 200, 3, 130):
        fused(Rows.prefill([5] * count, all_logits=True), fused.new_cache(1, 200))
        again = native.traced(Rows.prefill(PROMPT), native.new_cache(1, 16), features)
        assert torch.equal(alone[0], again[0])
        assert torch.equal(alone[1], again[1])
        assert fused.greedy(step, fused.new_cache(1, 16)) == expected
