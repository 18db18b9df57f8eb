"""What the columns of a user's CSV file hold: nothing missing in any role, numbers that are numbers, names that stay names."""

from __future__ import annotations

import random
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distopt.errors import InputError
from distopt.scenarios import _table
from distopt.scenarios._table import Table
from distopt.scenarios._texts import missing, number
from distopt.scenarios.stream import Stream

MARKERS = [
    "",
    " ",
    "None",
    "NA",
    "<NA>",
    "null",
    "nan",
    "NaN",
    "-",
    "?",
    "#N/A",
    "N/A",
    "n/a",
    "NULL",
    "Null",
    "#NA",
    "n.a.",
    "--",
    "#NULL!",
    "na",
    "NAN",
    "NaT",
    "-nan",
    "-NaN",
    "#N/A N/A",
    "1.#QNAN",
    "-1.#IND",
    ".",
    "..",
    "\u2013",
    "\u2014",
    "#DIV/0!",
    "\\N",
    "<null>",
    "(null)",
    "\uff1f",
    "\u200b",
]
HEADER = ["speed", "kind", "named", "device", "state"]  # a number, a category, a category by name, agents_by, label
COUNT = 12
Rows = list[list[str]]


def rows() -> Rows:
    rng = random.Random(4)
    kinds = [f"{rng.gauss(0, 1):.3f}" for _ in range(COUNT)]
    return [[kinds[k], "abc"[k % 3], str(k % 2), f"d{k % 4}", ("fine", "late")[k % 2]] for k in range(COUNT)]


def text(rows: Rows, header: list[str] = HEADER, separator: str = ",", end: str = "\n") -> str:
    """A file as a program writes it: quotes where a value holds the separator."""
    quoted = [[f'"{value}"' if separator in value else value for value in row] for row in [header, *rows]]
    return "".join(separator.join(row) + end for row in quoted)


def read(tmp_path: Path, content: str, **fields: Any) -> Table:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    _table._read.cache_clear()
    return Stream(path, **{"label": "state", **fields})._table


def column(tmp_path: Path, values: list[str], **fields: Any) -> Table:
    """A file with one feature ``c`` and labels that alternate."""
    return read(
        tmp_path,
        text([[value, "pq"[k % 2]] for k, value in enumerate(values)], ["c", "state"], separator="\t"),
        **fields,
    )


def labels(tmp_path: Path, values: list[str], **fields: Any) -> Table:
    return read(tmp_path, text([[str(k), value] for k, value in enumerate(values)], ["x", "state"]), **fields)


@pytest.mark.parametrize("marker", MARKERS, ids=ascii)
def test_a_missing_value_is_refused_in_every_role_and_place(tmp_path: Path, marker: str) -> None:
    for (place, name), row, (separator, end) in product(
        enumerate(HEADER), (0, COUNT // 2, COUNT - 1), product((",", ";", "\t"), ("\n", "\r\n", "\r"))
    ):
        bad = rows()
        bad[row][place] = marker
        with pytest.raises(InputError) as caught:
            read(tmp_path, text(bad, separator=separator, end=end), agents_by="device", categories="named")
        assert f"a.csv, line {row + 2}, column {name!r} has no value ({marker.strip()!r})" in str(caught.value)
        assert ("drop=" in str(caught.value)) == (name not in ("device", "state"))


def test_rows_without_a_marker_are_read(tmp_path: Path) -> None:
    data = read(tmp_path, text(rows()), agents_by="device", categories="named")
    assert data.features == ("1", "speed", "kind=a", "kind=b", "kind=c", "named=0", "named=1")
    assert data.groups == ("d0", "d1", "d2", "d3") and data.classes == ("fine", "late")


@pytest.mark.parametrize(
    "name",
    ["none", "NONE", "unknown", "missing", "nil", "nano", "nat", "na na", "0", "-1", "x-", "a.b", "n", "None of it"],
)
def test_what_is_no_marker_is_a_name(tmp_path: Path, name: str) -> None:
    assert not missing(name)
    changed = rows()
    changed[3][2] = changed[4][3] = changed[5][4] = name
    data = read(tmp_path, text(changed), agents_by="device", categories="named")
    assert f"named={name}" in data.features and name in data.groups and name in data.classes


NUMBERLIKE = [
    "5e9120",
    "inf",
    "-inf",
    "Infinity",
    "1e400",
    "1e-400",
    "0601",
    "1_0",
    "10",
    "1e1",
    "0x10",
    "1,5",
    "\uff11\uff12",
    "\u0661\u0662",
    "9007199254740993",
    "9007199254740992",
    "18446744073709551616",
    "1e99999999999999999999",
    "+7",
    "1e101",
]


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    """In name columns the same bits as with other texts in their place, each text itself."""
    ids = NUMBERLIKE
    plain = [
        [f"{k / 7:.3f}", ids[k % len(ids)], ids[-1 - k % len(ids)], ("up", "down")[k % 3 % 2]]
        for k in range(3 * len(ids))
    ]
    renamed = [[row[0], "d" + row[1], "d" + row[2], row[3]] for row in plain]
    header = ["x", "device", "code", "state"]
    one, other = (
        read(tmp_path, text(each, header, "\t"), agents_by="device", categories=["code"]) for each in (plain, renamed)
    )
    assert np.array_equal(one.X, other.X) and np.array_equal(one.group, other.group) and np.array_equal(one.y, other.y)
    assert one.groups == tuple(ids) and other.groups == tuple("d" + each for each in ids)
    assert len(one.features) == 2 + len(ids)


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("name", NUMBERLIKE)
def test_labels_that_look_like_numbers_are_texts_among_texts(tmp_path: Path, name: str, at: int) -> None:
    values = ["a1", "b2", "zz", "a1", "b2", "zz", "a1"]
    values[at] = name
    data = read(tmp_path, text([[str(k), value] for k, value in enumerate(values)], ["x", "state"], "\t"))
    assert data.classes == tuple(sorted(set(values))) and [data.classes[k] for k in data.y] == values


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("name", NUMBERLIKE)
def test_a_feature_of_texts_is_not_judged_by_the_few_that_look_like_numbers(tmp_path: Path, name: str, at: int) -> None:
    values = ["a1", "b2", "zz", "c3", "b2", "zz", "a1"]
    values[at] = name
    assert column(tmp_path, ["5e9120", "a01c3f", "77b2d0", "inf"]).features[1:] == (
        "c=5e9120",
        "c=a01c3f",
        "c=77b2d0",
        "c=inf",
    )
    assert column(tmp_path, values).features == ("1", *(f"c={value}" for value in dict.fromkeys(values)))


@pytest.mark.parametrize(
    "odd", ["unknown", "tall", "1_000", "0x1F", "12:30", "5 kg", "1,5", "\uff11", "\u0661", "inf", "1e101", "none"]
)
@pytest.mark.parametrize("row", [0, 7, 47])
def test_a_number_column_with_odd_cells_is_no_column_of_names(tmp_path: Path, odd: str, row: int) -> None:
    values = [str(k % 24) for k in range(48)]
    values[row] = odd
    with pytest.raises(
        InputError, match=rf"line {row + 2}, column 'c' is .*drop=c, or say that it holds names with categories=c"
    ):
        column(tmp_path, values)
    if odd != "none":
        assert len(column(tmp_path, values, categories="c").features) == 1 + len(set(values))
    assert (
        len(
            read(
                tmp_path,
                text([[v, str(k), "pq"[k % 2]] for k, v in enumerate(values)], ["c", "x", "state"], ";"),
                drop="c",
            ).features
        )
        == 2
    )


@pytest.mark.parametrize(("first", "numbers"), [(499, 40), (501, 40), (700, 700), (600, 24)])
def test_odd_cells_that_fill_the_first_rows_are_found_too(tmp_path: Path, first: int, numbers: int) -> None:
    values = ["unknown"] * first + [str(k % 24) for k in range(numbers)]
    with pytest.raises(
        InputError,
        match=rf"line 2, column 'c' is 'unknown', but the column .*numbers \({first} of {len(values)} values are no",
    ):
        column(tmp_path, values)
    with pytest.raises(InputError, match=f"line {numbers + 2}, column 'c' is 'unknown', but the column .*numbers"):
        column(tmp_path, [*values[first:], "unknown"])


@pytest.mark.parametrize(
    "spelled",
    [["1,5", "2,5"], ["1,500", "1,234,567"], ["\uff11", "\uff12"], ["\u0661", "\u0662.\u0663"], ["\u22121", "2"]],
)
def test_numbers_in_another_spelling_do_not_become_names(tmp_path: Path, spelled: list[str]) -> None:
    odd = next(value for value in spelled if number(value) is None)
    with pytest.raises(
        InputError,
        match=re.escape(f"column 'c' is {odd!r}; a number is written in the digits 0 to 9 with a decimal point"),
    ):
        column(tmp_path, spelled * 5)


def test_blanks_around_a_number_do_not_count(tmp_path: Path) -> None:
    got = column(tmp_path, [" 1", "2 ", "\u00a03", "4\u2003", " +5.0 "], standardise=False)
    assert got.X[:, 1].tolist() == [1, 2, 3, 4, 5]


# --- classes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [["0", "0.0", "1"], ["0", "-0", "1"], ["1", "+1", "2"], ["1.0", "1", "1.00", "2"], ["-1", "-1.0", "1"]]
)
def test_spellings_of_one_number_are_one_class(tmp_path: Path, values: list[str]) -> None:
    data = labels(tmp_path, values)
    assert [float(data.classes[k]) for k in data.y] == [float(value) for value in values] and len(data.classes) == 2
    assert labels(tmp_path, values, categories="state").classes == tuple(sorted(values))


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "01"), ("01", "1"), ("10", "1e1"), ("7", "007"), ("1e5", "1E5"), ("0", "00"), ("0.5", "5e-1")],
)
def test_spellings_that_may_be_two_names_are_not_merged(tmp_path: Path, one: str, other: str) -> None:
    values = [one, "2", other, "3"]
    with pytest.raises(
        InputError, match=re.escape(f"line 4, column 'state' is {other!r}, which is the number {one!r}")
    ):
        labels(tmp_path, values)
    assert labels(tmp_path, values, categories="state").classes == tuple(sorted(values))


def test_numbers_beyond_floats_are_classes_of_their_own(tmp_path: Path) -> None:
    near = ["9223372036854775808", "9223372036854775807", "9223372036854775809"]
    assert labels(tmp_path, near).classes == tuple(sorted(near))
    far = ["1e400", "inf", "2e400", "1"]
    assert labels(tmp_path, far).classes == tuple(sorted(far))
    assert labels(tmp_path, ["01", "2", "10"]).classes == ("01", "2", "10")  # sorted as numbers


@pytest.mark.parametrize(
    "pair", [("\u00fc", "u\u0308"), ("ab", "a\u200bb"), ("new york", "new\u00a0york"), ("x", "x\ufeff")]
)
@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_texts_that_look_alike_are_not_two(tmp_path: Path, pair: tuple[str, str], place: int) -> None:
    bad = rows()
    bad[2][place], bad[7][place] = pair
    with pytest.raises(InputError, match=rf"line 9, column '{HEADER[place]}' is .*looks like") as caught:
        read(tmp_path, text(bad), agents_by="device", categories="named")
    assert ascii(pair[1]) in str(caught.value)


# --- drop and categories -----------------------------------------------------------------------------------------------------


def test_columns_are_left_out_whatever_they_hold(tmp_path: Path) -> None:
    bad = [[*row[:1], "NA\0", str(k), *row[3:]] for k, row in enumerate(rows())]
    assert read(tmp_path, text(bad), drop="kind+device").features == ("1", "speed", "named")
    assert read(tmp_path, text(bad), drop=["kind", "device", "named"]).features == ("1", "speed")


def test_a_plus_within_a_name_is_doubled(tmp_path: Path) -> None:
    content = "a+b,a,b,C++,state\n1,2,3,4,p\n2,3,4,5,q\n"
    for drop, kept in [
        ("a+b", {"a+b", "C++"}),
        ("a++b", {"a", "b", "C++"}),
        ("a++b+C++++", {"a", "b"}),
        (["a+b", "C++"], {"a", "b"}),
    ]:
        assert set(read(tmp_path, content, drop=drop).features) == {"1", *kept}
    with pytest.raises(InputError, match=r"drop='c' is not a column .* Write drop=c\+\+d"):
        read(tmp_path, "c+d,x,state\n1,2,p\n2,3,q\n", drop="c+d")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"drop": "state"}, "drop and label both name 'state'"),
        ({"drop": "device", "agents_by": "device"}, "drop and agents_by both name 'device'"),
        ({"drop": "kind", "categories": "kind"}, "drop and categories both name 'kind'"),
        ({"drop": "kinde"}, "drop='kinde' is not a column .*did you mean 'kind'"),
        ({"categories": ["speed", "q"]}, "categories='q' is not a column"),
        ({"drop": "kind++device"}, r"drop='kind\+device' is not a column"),
        ({"drop": "speed+kind+named+device"}, "no column besides the label"),
        ({"drop": "speed+"}, "has an empty name"),
        ({"drop": [""]}, "has an empty name"),
        ({"drop": 5}, "must be names of columns"),
        ({"categories": [5]}, "must be names of columns"),
        ({"categories": None}, "must be names of columns"),
    ],
)
def test_wrong_names_are_told(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(tmp_path, text(rows()), **fields)


def test_the_advice_is_a_spec_that_works(tmp_path: Path) -> None:
    """A name with commas, brackets, quotes and plus signs, as the message writes it."""
    from distopt.catalog import registry

    for name in ("a,b", "f(x)", "C++", "it's", 'so "x"', "a=b", "[1]"):
        path = tmp_path / "a.csv"
        path.write_text(
            f'x\t"{name.replace(chr(34), 2 * chr(34))}"\tstate\n' + "".join(f"{k}\tt{k}\tp{k % 2}\n" for k in range(40))
        )
        with pytest.raises(InputError, match="leave the column out with drop=") as caught:
            _ = Stream(path, "state").dim
        advice = str(caught.value).split(" with ")[-1]
        assert registry.make("scenarios", f"stream:path='{path}',label=state,{advice}").dim == 2
