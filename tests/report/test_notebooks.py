"""Which notebooks there are, and which parameters are refused before anything runs."""

import math

import nbformat
import pytest

from labkit.base.paths import project_root
from labkit.errors import ParameterError
from labkit.report.runs.notebooks import (
    apply_overrides,
    discover,
    read_notebook,
    read_overrides,
    read_profile,
    select,
)

CELL = """
model: str = ""
rounds: int = 3
share: float = 0.5
sizes: list[int] = [1, 2]
fast: bool = False
"""


def write(folder, name, title="A title", parameters=CELL):
    cell = nbformat.v4.new_code_cell(parameters)
    cell.metadata["tags"] = ["parameters"]
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\ntext"), cell]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")


@pytest.fixture
def notebooks(tmp_path):
    write(tmp_path, "00_first", "The first")
    write(tmp_path, "01_second", "The second", "rounds: int = 5\ndepth: int = 1")
    write(tmp_path, "02_cache", "The cache", "window: int = 9")
    return discover(tmp_path)


def test_titles_names_and_declared_parameters(notebooks):
    assert [n.name for n in notebooks] == ["00_first", "01_second", "02_cache"]
    assert notebooks[0].title == "The first"
    assert notebooks[0].parameters["sizes"] == ("list[int]", [1, 2])
    assert "notebooks/00_first.ipynb" in notebooks[0].declared()


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("", ["00_first", "01_second", "02_cache"]),
        ("02", ["02_cache"]),
        ("cache,00", ["00_first", "02_cache"]),
        ("01_second", ["01_second"]),
    ],
)
def test_only_selects_by_number_name_or_beginning(notebooks, only, names):
    assert [n.name for n in select(notebooks, only)] == names


def test_only_that_names_nothing_lists_what_there_is(notebooks):
    with pytest.raises(ParameterError, match="ONLY=07.*00_first, 01_second, 02_cache"):
        select(notebooks, "07")


def test_a_plain_name_goes_to_all_that_declare_it(notebooks):
    values = apply_overrides(notebooks, notebooks, {"rounds": 9, "window": 4}, "PARAMS")
    assert values == {
        "00_first": {"rounds": 9},
        "01_second": {"rounds": 9},
        "02_cache": {"window": 4},
    }


def test_a_nested_name_goes_to_one(notebooks):
    values = apply_overrides(notebooks, notebooks, {"01_second": {"rounds": 9}}, "PARAMS")
    assert values["01_second"] == {"rounds": 9}
    assert values["00_first"] == {}


def test_what_only_unchosen_notebooks_have_is_checked_and_passed_over(notebooks):
    assert apply_overrides(notebooks[:1], notebooks, {"window": 4}, "full") == {"00_first": {}}
    with pytest.raises(ParameterError, match="window"):
        apply_overrides(notebooks[:1], notebooks, {"window": "wide"}, "full")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"ronds": 3}, r"ronds.*Did you mean rounds \(int, in 00_first\)\?.*cell of each notebook"),
        (
            {"00_first": {"ronds": 3}},
            r"00_first has no parameter .*rounds \(int\)\? .*00_first.ipynb",
        ),
        ({"07_none": {"rounds": 3}}, "no notebook"),
        ({"rounds": "three"}, "rounds of 00_first must be int.*str"),
        ({"rounds": 3.5}, "must be int"),
        ({"rounds": True}, "must be int"),
        ({"fast": 1}, "must be bool"),
        ({"sizes": [1, "b"]}, "must be list"),
        ({"sizes": 4}, "must be list"),
        ({"model": 3}, "must be str"),
    ],
)
def test_mistyped_names_and_wrong_types_are_refused(notebooks, overrides, words):
    with pytest.raises(ParameterError, match=words):
        apply_overrides(notebooks, notebooks, overrides, "PARAMS")


def test_an_int_will_do_for_a_float(notebooks):
    assert apply_overrides(notebooks, notebooks, {"share": 1}, "x")["00_first"] == {"share": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2", "not YAML"),
        ("\x1b: [", "not YAML"),
        ("- a\n- b", "must map names"),
        ("7", "must map names"),
    ],
)
def test_a_params_file_that_is_no_mapping_is_refused(tmp_path, text, words):
    path = tmp_path / "two\nlines.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=words) as caught:
        read_overrides(path)
    assert str(caught.value).isprintable()


def test_a_missing_params_file_and_an_empty_one(tmp_path):
    with pytest.raises(ParameterError, match="cannot be read"):
        read_overrides(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert read_overrides(tmp_path / "empty.yaml") == {}


def test_a_parameters_cell_may_hold_annotated_values_only(tmp_path):
    write(tmp_path, "00_x", parameters="rounds = 3")
    with pytest.raises(ParameterError, match="name: type = value"):
        read_notebook(tmp_path / "00_x.ipynb")


def test_our_profiles_fit_our_notebooks():
    folder = project_root() / "notebooks"
    every = discover(folder)
    for profile in ("quick", "full"):
        apply_overrides(every, every, read_profile(folder, profile), profile)
    with pytest.raises(ParameterError, match="'fast' is unknown; allowed: full, quick"):
        read_profile(folder, "fast")
    for notebook in every:
        assert {"model", "device", "dtype"} <= set(notebook.parameters)


@pytest.mark.parametrize(
    "text", ["00_first:\n", "00_first:\n02_cache: {window: 4}\n", "00_first: {}"]
)
def test_a_section_may_be_empty(notebooks, tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    given = read_overrides(tmp_path / "p.yaml")
    values = apply_overrides(notebooks, notebooks, given, "PARAMS")
    assert values["00_first"] == {}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rounds": None}, "rounds of 00_first must be int; it is no value"),
        ({"07_none": None}, "no notebook has a parameter '07_none'"),
        ({"00_first": {1: 2}}, "00_first has no parameter 1"),
        ({"00_first": {None: 2}}, "00_first has no parameter None"),
        ({"00_first": {"rounds": {"a": 1}}}, "must be int"),
        ({"share": math.nan}, "must be float; it is nan"),
        ({"share": math.inf}, "must be float; it is inf"),
        ({"share": 10**400}, "must be float"),
        ({"sizes": [[1]]}, "must be list"),
        ({"model": "x", "rounds": "y" * 10**6}, "must be int; it is 'yyy"),
        ({"z" * 10**6: 1}, "no notebook has a parameter 'zzz"),
    ],
)
def test_hostile_values_are_refused_in_a_short_line(notebooks, overrides, words):
    with pytest.raises(ParameterError, match=words) as caught:
        apply_overrides(notebooks, notebooks, overrides, "PARAMS")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe", b"a: \x00", b"a: [" * 5000, b"? [a, b]\n: 1", b"1: 2", b"a: &x [*x, *y]",
        b"a: 1" + b"0" * 5000, b"a: 2020-99-99", b"- " * 3000, b"{" * 3000, 
        b"a: !!timestamp 1", b"a: !!set [1]", b"a: !!int ''", b"a: !!bool maybe",
        b"!!python/object:os.system {}", b"a: b: c", b"x" * (2**20 + 1),
    ],
)  # fmt: skip
def test_a_hostile_params_file_is_one_line(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParameterError) as caught:
        read_overrides(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ParameterError, match="cannot be read: Is a directory"):
        read_overrides(tmp_path)


def test_a_params_file_that_holds_itself_is_refused_in_a_line(notebooks, tmp_path):
    path = tmp_path / "params.yaml"
    inner = ("a: &x {b: *x}", "00_first: &x {rounds: *x}", "rounds: &x [*x]")
    for text in (*inner, "&x {00_first: *x}"):
        path.write_text(text)
        with pytest.raises(ParameterError) as caught:
            apply_overrides(notebooks, notebooks, read_overrides(path), "PARAMS")
        assert "\n" not in str(caught.value)


def test_a_name_that_is_given_twice_is_refused(tmp_path):
    for text in ("rounds: 3\nrounds: 5", "00_first: {rounds: 3, rounds: 5}"):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(ParameterError, match="'rounds' is given twice"):
            read_overrides(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"cells": 3}', b"[" * 10**5,
     b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [7]}'],
)  # fmt: skip
def test_a_file_that_is_no_notebook_is_one_line(tmp_path, content):
    (tmp_path / "00_x.ipynb").write_bytes(content)
    with pytest.raises(ParameterError, match="00_x.ipynb") as caught:
        discover(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_notebook_that_has_gone_is_told(tmp_path):
    (tmp_path / "00_x.ipynb").symlink_to(tmp_path / "gone")
    with pytest.raises(ParameterError, match="00_x.ipynb cannot be read: No such file"):
        discover(tmp_path)


@pytest.mark.parametrize("cell", ["rounds: int = (", "rounds: int = len([1])", "rounds: int", "\0"])
def test_a_parameters_cell_that_is_no_list_of_values_is_one_line(tmp_path, cell):
    write(tmp_path, "00_x", parameters=cell)
    with pytest.raises(ParameterError, match="00_x: ") as caught:
        read_notebook(tmp_path / "00_x.ipynb")
    assert "\n" not in str(caught.value)


def test_a_profile_is_one_of_those_that_are_there(tmp_path):
    for name in ("../x", "y" * 300, "", "full.yaml", "a\0b"):
        with pytest.raises(ParameterError, match="is unknown; allowed: none"):
            read_profile(tmp_path, name)


@pytest.mark.parametrize("given", [{"xyz": 1}, {"07_batching": {"slot": 1}}, {"rounds": "x"}])
def test_an_error_about_our_own_parameters_is_short(given):
    """It names what is nearest and where all are listed, and lists none of a hundred others."""
    every = discover(project_root() / "notebooks")
    with pytest.raises(ParameterError, match="parameters cell of") as caught:
        apply_overrides(every, every, given, "params.yaml")
    assert len(str(caught.value)) < 250
