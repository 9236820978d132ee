"""Texts: enough of them, half prose and half code; calibration and evaluation share none."""

from __future__ import annotations

import pytest

from labkit.errors import ParameterError
from labkit.model.load import locate, tokenizer_of
from labkit.workload import texts
from labkit.workload.texts import TextError, help_paragraphs, pieces, text


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(locate()[1])


def windows(ids, width):
    return {tuple(ids[at : at + width]) for at in range(len(ids) - width + 1)}


def test_there_is_enough_in_pieces_of_one_length(tokenizer):
    found = pieces(tokenizer, "evaluation", 20_480, 512)
    assert [len(piece) for piece in found] == [512] * 40
    assert len({tuple(piece) for piece in found}) == 40


def test_prose_and_code_take_turns(tokenizer):
    prose, code, *_ = pieces(tokenizer, "calibration", 600, 200)
    assert tokenizer.decode(prose) in text("prose", "calibration")
    assert tokenizer.decode(code) in text("code", "calibration")


def test_the_same_every_time_and_no_less_than_asked(tokenizer):
    found = pieces(tokenizer, "evaluation", 1001, 250)
    assert len(found) == 5
    assert found == pieces(tokenizer, "evaluation", 1001, 250)
    assert found[:2] == pieces(tokenizer, "evaluation", 500, 250)


def test_calibration_never_overlaps_evaluation(tokenizer):
    """No 30 tokens in a row are in both."""
    judged = [windows(piece, 30) for piece in pieces(tokenizer, "evaluation", 40_960, 1024)]
    for piece in pieces(tokenizer, "calibration", 40_960, 1024):
        assert not windows(piece, 30) & set().union(*judged)


def test_a_paragraph_that_topics_share_is_taken_once():
    words = [" ".join(paragraph.split()) for paragraph in help_paragraphs()]
    assert len(set(words)) == len(words)
    assert "" not in words


def test_no_module_serves_both():
    assert not set(texts.MODULES["calibration"]) & set(texts.MODULES["evaluation"])


@pytest.mark.parametrize(
    ("purpose", "tokens", "length", "error", "words"),
    [
        ("training", 10, 10, ParameterError, "no text for 'training'; allowed: calib"),
        ("evaluation", 0, 10, ParameterError, "at least 1; got 0 and 10"),
        ("evaluation", 10, 0, ParameterError, "at least 1; got 10 and 0"),
        ("evaluation", 10**7, 512, TextError, "Ask for fewer tokens"),
        ("evaluation", 10**7, 10**7, TextError, "there are 0"),
    ],
)
def test_bad_requests(tokenizer, purpose, tokens, length, error, words):
    with pytest.raises(error, match=words):
        pieces(tokenizer, purpose, tokens, length)


def test_text_that_is_missing_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(texts.MODULES, "evaluation", ("no_such_module",))
    with pytest.raises(TextError, match=r"no_such_module did not come .* standard library"):
        text("code", "evaluation")
    monkeypatch.setitem(texts.MODULES, "evaluation", ("sys",))  # built in: it has no source
    with pytest.raises(TextError, match="text of sys"):
        text("code", "evaluation")
