"""Settings as TOML: what is written is read back, and reads as tomli-w writes it, which earlier versions used."""

import tomllib
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from distopt.catalog.toml_writer import toml_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PLAIN = st.one_of(TEXTS, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans())
LISTS = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
TABLES = st.recursive(
    st.dictionaries(TEXTS, LISTS, max_size=3), lambda inner: st.dictionaries(TEXTS, LISTS | inner), max_leaves=4
)


@given(TABLES)
def test_what_is_written_is_read_back_and_looks_as_before(values: dict[str, Any]) -> None:
    text = toml_text(values)
    assert tomllib.loads(text) == values
    assert text == tomli_w.dumps(values)


def test_a_mapping_in_a_list_stands_in_a_line() -> None:
    values = {"topology": [{"x": "ring", "s": "star"}, "path", {}]}
    assert toml_text(values) == tomli_w.dumps(values)
    assert tomllib.loads(toml_text(values)) == values


def test_numbers_of_numpy_and_those_that_are_not_finite_are_written() -> None:
    assert toml_text({"a": np.float64(0.1), "b": float("nan"), "c": -float("inf")}) == "a = 0.1\nb = nan\nc = -inf\n"


@pytest.mark.parametrize("values", [{"a": None}, {"a": [object()]}, {1: "a"}, {"a": {2: 3}}])
def test_what_toml_does_not_have_is_refused(values: Any) -> None:
    with pytest.raises(TypeError):
        toml_text(values)
