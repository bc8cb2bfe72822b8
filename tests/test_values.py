"""Values against types: what fits, what it becomes, and what is said where it does not."""

# ruff: noqa: E501  one case a line

import math
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
from omegaconf import OmegaConf

from actionkit.schema import Nested
from actionkit.values import MisfitError, fit, nested, options


def test_conversions():
    assert fit([1, 2], tuple[int, int]) == (1, 2)
    assert fit((1, 2), list[int]) == [1, 2]
    assert type(fit(3, float)) is float
    assert fit("~/x", Path) == Path("~/x").expanduser()
    assert fit({"a": [1, 2]}, dict[str, tuple[float, float]]) == {"a": (1.0, 2.0)}
    assert fit([["a"]], list[list[Path]]) == [[Path("a")]]
    assert math.isinf(fit(math.inf, float))


def test_a_union_takes_the_first_member_that_fits():
    assert type(fit(3, int | float)) is int
    assert type(fit(3, float | int)) is float
    assert fit([1, 2], int | tuple[int, int]) == (1, 2)
    assert fit(None, Optional[int]) is None  # noqa: UP045  as a plugin may write it
    assert fit("a", Union[int, str]) == "a"  # noqa: UP007
    assert fit(True, bool | int) is True


def test_a_true_is_no_number_and_a_number_is_no_true():
    for value, kind in ((True, int), (True, float), (1, bool), (1, Literal[True])):
        with pytest.raises(MisfitError):
            fit(value, kind)


def test_what_was_given_is_not_changed():
    given = {"a": [1, [2]]}
    assert fit(given, Any) is given
    fit(given, dict[str, list])
    assert given == {"a": [1, [2]]}


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        ("3", int, "expected a whole number, got '3'"),
        (2.5, int, "expected a whole number, got 2.5"),
        ("x", float, "expected a number, got 'x'"),
        (None, int, "expected a whole number, got null"),
        (1, bool, "expected true or false, got 1"),
        ("yes", bool, "expected true or false, got 'yes'"),
        (3, Path, "expected a path, got 3"),
        ("", Path, "expected a path, got ''"),
        (3, list[int], "expected a list of whole numbers, got 3"),
        ([1], tuple[int, int], "expected a list of 2 whole numbers, got [1]"),
        ([1, 2], tuple[int, str], "expected a list of a whole number, a text, got [1, 2]"),
        (3, dict[str, float], "expected a map to numbers, got 3"),
        (3, dict, "expected a map, got 3"),
        ("x", int | None, "expected a whole number or null, got 'x'"),
        ("meen", Literal["mean", "max"], "expected 'mean' or 'max', got 'meen'. Did you mean 'mean'?"),
        ("q", Literal["a", "b", "c"], "expected 'a', 'b', 'c', got 'q'"),
        ("aut", int | Literal["auto"], "expected a whole number or 'auto', got 'aut'. Did you mean 'auto'?"),
    ],
)  # fmt: skip
def test_sentences(value, kind, sentence):
    with pytest.raises(MisfitError) as caught:
        fit(value, kind)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("written", "kind", "sentence"),
    [
        ("on", str, "expected a text, got true; YAML reads the bare words on, off, yes and no"),
        ("no", Literal["yes", "no"], "expected 'yes' or 'no', got false; YAML reads"),
        ("010", str, "expected a text, got 8; put it in quotes to have a text"),
        ("12:30:45", str, "expected a text, got 45045; put it in quotes"),
        ("12:30:45", Path, "expected a path, got 45045"),
        ("1e-3", int, "expected a whole number, got 0.001"),
        ("1e3", int, "expected a whole number, got 1000.0"),
        ("3.10", str, "expected a text, got 3.1; put it in quotes"),
        ("~", str, "expected a text, got null"),
        ("'3'", int, "expected a whole number, got '3'"),
        ("1, 2", list[int], "expected a list of whole numbers, got '1, 2'"),
    ],
)
def test_traps_of_yaml(written, kind, sentence):
    value = OmegaConf.to_container(OmegaConf.create(f"x: {written}"))["x"]
    with pytest.raises(MisfitError) as caught:
        fit(value, kind)
    assert str(caught.value).startswith(sentence)


def test_components_pass_as_they_are():
    part = Nested("Part")
    assert nested(Union[part, None]) == part  # noqa: UP007
    assert nested(int | None) is None
    assert list(options(int)) == [int]
    assert fit({"use": "mean"}, part) == {"use": "mean"}
