"""Prompts: exact lengths, another text each round, the same for the same seed."""

import pytest

from labkit.workload.prompts import Workload, paragraphs, prompt_ids


class Bytes:
    """A tokenizer of one token a byte."""

    def encode(self, text, add_special_tokens=True):
        return list(text.encode())


TOKENIZER = Bytes()


@pytest.mark.parametrize("tokens", [1, 64, 5000, 20000])
def test_prompts_have_exactly_the_length_asked(tokens):
    assert len(prompt_ids(TOKENIZER, tokens, number=3)) == tokens


def test_every_round_asks_another_prompt():
    prompts = {tuple(prompt_ids(TOKENIZER, 64, number)) for number in range(50)}
    assert len(prompts) == 50


def test_the_same_seed_and_round_ask_the_same():
    assert prompt_ids(TOKENIZER, 64, 5, seed=2) == prompt_ids(TOKENIZER, 64, 5, seed=2)
    assert prompt_ids(TOKENIZER, 64, 5, seed=2) != prompt_ids(TOKENIZER, 64, 5, seed=3)


def test_the_text_is_real_prose():
    assert len(paragraphs()) > 15
    assert min(len(part.split()) for part in paragraphs()) > 5


def test_a_workload_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Workload(0, 5)
    assert Workload(4, 5).describe() == {
        "prompt_tokens": 4,
        "new_tokens": 5,
        "batch": 1,
        "seed": 0,
    }
