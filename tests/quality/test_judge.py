"""How texts are put into passes: many short ones together, long ones in chunks, starts left out."""

from __future__ import annotations

import numpy as np
import pytest

from labkit.errors import ParameterError
from labkit.quality import judge as judging
from labkit.quality.judge import ROWS, judge, rows_at_once
from tests.tiny import CONFIG, tiny_decoder

SHORT = [[5, 1, 7, 3], [2, 9, 4], [8, 8, 1, 6, 2]]
LONG = list(range(20))


class Counting:
    """A decoder that notes the rows, and the wanted rows, of each pass."""

    def __init__(self):
        self.decoder = tiny_decoder()
        self.config, self.new_cache = self.decoder.config, self.decoder.new_cache
        self.rows, self.wanted = [], []

    def __call__(self, rows, cache):
        self.rows.append(len(rows))
        self.wanted.append(len(rows.asked))
        return self.decoder(rows, cache)


def test_short_texts_share_a_pass():
    counted = Counting()
    judge(counted, {"same": counted.decoder}, SHORT, 256)
    assert counted.rows == [4 + 3 + 5]


def test_texts_that_do_not_fit_together_come_one_after_another():
    counted = Counting()
    judge(counted, {"same": counted.decoder}, [*SHORT, LONG, *SHORT], 8)
    assert counted.rows == [7, 5, 8, 8, 4, 7, 5]


@pytest.mark.parametrize("rows", [1, 4, 9, 256])
def test_the_result_does_not_depend_on_the_passes(rows):
    reference, other = tiny_decoder(), {"other": tiny_decoder(1)}
    alone = [judge(reference, other, [ids])["other"] for ids in (*SHORT, LONG)]
    found = judge(reference, other, [*SHORT, LONG], rows)["other"]
    assert np.allclose(found.kl, np.concatenate([part.kl for part in alone]), rtol=1e-3)
    losses = np.concatenate([part.variant_loss for part in alone])
    assert np.allclose(found.variant_loss, losses, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 6, 8, 256])
def test_the_start_of_a_text_is_read_and_not_compared(rows):
    counted, other = Counting(), {"other": tiny_decoder(1)}
    whole = judge(counted.decoder, other, [LONG])["other"]
    found = judge(counted, other, [LONG], rows, skip=8)["other"]
    assert np.allclose(found.kl, whole.kl[8:], rtol=1e-3)
    assert np.allclose(found.baseline_loss, whole.baseline_loss[8:], rtol=1e-4)
    assert sum(counted.rows) == 20
    assert sum(counted.wanted) == 12


def test_nothing_is_left_of_a_text_that_is_too_short():
    decoder = tiny_decoder()
    with pytest.raises(ParameterError, match="texts of at least 21 tokens"):
        judge(decoder, {"same": decoder}, [LONG], skip=19)


def test_an_accelerator_judges_as_many_rows_as_fit(monkeypatch):
    assert rows_at_once(CONFIG, "cpu") == ROWS
    for gigabytes, rows in ((200, 8192), (8, 635), (1, ROWS)):
        memory = gigabytes * 10**9
        monkeypatch.setattr(judging, "memory_bytes", lambda _, memory=memory: memory)
        config = type("Wide", (), {"vocab_size": 49152})
        assert rows_at_once(config, "cuda:0") == rows
