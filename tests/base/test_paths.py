"""JSON from outside: what cannot be used is one line that names the file."""

import json
import math
import os

import pytest

from labkit.base.paths import atomic_write, json_in, json_text, read_json


@pytest.mark.parametrize(
    "held", [{"a": [1, 2.5, None, True, "x"]}, [], 7, "x", None, {"a": -1e300}]
)
def test_what_is_written_comes_back(tmp_path, held):
    (tmp_path / "f.json").write_text(json.dumps(held))
    assert json_in(tmp_path / "f.json") == held
    assert read_json(tmp_path / "f.json") == (held if isinstance(held, dict) else {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "f.json is no JSON"),
        (b"\xff\xfe", "f.json is no JSON"),
        (b'{"a": 1e400}', r"f.json is no JSON \(a number of 5 characters, 1e400, is too large\)"),
        (b'{"a": -1' + b"0" * 400 + b"}", "of 402 characters, -1000000000000000000, is too large"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "is too large"),
        (b"[" * 100_000, "f.json is no JSON"),
        (b"[" * 51 + b"]" * 51, "f.json is nested too deep; allowed are 50 levels"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "nested too deep"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, content, said):
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        json_in(tmp_path / "f.json")
    assert "\n" not in str(caught.value)
    assert read_json(tmp_path / "f.json") == {}


def test_what_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(ValueError, match="none.json cannot be read: No such file"):
        json_in(tmp_path / "none.json")
    with pytest.raises(ValueError, match=f"{tmp_path.name} cannot be read: Is a directory"):
        json_in(tmp_path)
    assert read_json(tmp_path) == {}


def test_what_is_no_number_is_unknown(tmp_path):
    (tmp_path / "f.json").write_text('{"a": NaN, "b": [Infinity, -Infinity, 1]}')
    assert json_in(tmp_path / "f.json") == {"a": None, "b": [None, None, 1]}


def test_json_that_is_written_holds_no_nan():
    data = {"a": math.nan, "b": [1.5, (math.inf, {"c": -math.inf})], "d": "NaN", "e": True}
    told = json_text(data)
    assert json.loads(told, parse_constant=pytest.fail) == {
        "a": None, "b": [1.5, [None, {"c": None}]], "d": "NaN", "e": True,
    }  # fmt: skip
    assert json_text({"a": 1.5}, indent=1) == json.dumps({"a": 1.5}, indent=1)


def test_a_file_that_is_far_too_large_is_not_read_whole(tmp_path):
    with (tmp_path / "f.json").open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(ValueError, match="more than 64 MB"):
        json_in(tmp_path / "f.json")


def test_a_pipe_in_a_file_s_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "f.json")
    with pytest.raises(ValueError, match="no regular file"):
        json_in(tmp_path / "f.json")
    assert read_json(tmp_path / "f.json") == {}


def test_half_a_character_is_written_as_a_question_mark(tmp_path):
    atomic_write(tmp_path / "f", "a\ud800b\udcff")
    assert (tmp_path / "f").read_text() == "a?b?"
