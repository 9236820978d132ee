"""What every study refuses before it loads a model."""

import importlib
import inspect
from pathlib import Path

import pytest

from labkit.errors import ParameterError
from labkit.studies import lab
from tests.test_notebooks import NOTEBOOKS


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(lab, "load", refuse)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    "wrong", [{"prompt_tokens": 0}, {"new_tokens": 1}, {"new_tokens": -3}, {"rounds": 4}]
)
def test_numbers_that_no_comparison_can_use_are_refused(wrong: dict[str, int]) -> None:
    given = {"prompt_tokens": 8, "new_tokens": 2, "rounds": 5} | wrong
    ((name, value),) = wrong.items()
    with pytest.raises(ParameterError, match=rf"{name} {value}.*at least 1, 2 \(.*\) and 5"):
        lab.Lab.open("x", "x", **given)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_study_refuses_one_new_token_before_it_loads(path: Path) -> None:
    """A decode phase has a time from the second token on."""
    study = importlib.import_module(f"labkit.studies.{path.stem[3:]}").Study
    assert "new_tokens" in inspect.signature(study).parameters
    with pytest.raises(ParameterError, match="new_tokens is 1; allowed: whole numbers from"):
        study(new_tokens=1)
