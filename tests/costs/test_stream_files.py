"""CSV files as the world writes them: separators, line ends, encodings, quotes, and what is no CSV file at all."""

from __future__ import annotations

import csv
import io
import os
import random
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.asking import call

import distopt
from distopt.catalog import registry
from distopt.errors import InputError
from distopt.numerics import room
from distopt.scenarios import _csv, _table
from distopt.scenarios.stream import Stream

BASE = "speed,kind,state\n1.5,a,fine\n2.5,b,late\n-1e-3,a,fine\n4,c,late\n"


def made(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    _table._read.cache_clear()
    return path


def refused(tmp_path: Path, content: str | bytes, **fields: Any) -> str:
    """What is said of a file, without its folder: one line."""
    with pytest.raises(InputError) as caught:
        _ = Stream(made(tmp_path, content), **{"label": "state", **fields}).dim
    said = str(caught.value)
    assert said.startswith("stream: ") and "\n" not in said and "a.csv" in said
    return said.replace(f"{tmp_path}{os.sep}", "")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_dialects_give_the_same_bits(tmp_path: Path, separator: str, end: str, mark: bytes) -> None:
    plain = Stream(made(tmp_path, BASE), "state")._table
    for content in (
        BASE,
        "\n  \n" + BASE,
        BASE.replace("2.5,", "\n2.5,"),
        BASE + "\n\n \n",
        BASE.removesuffix("\n"),
        BASE.replace(",a,", ',"a",'),
    ):
        other = Stream(
            made(tmp_path, mark + content.replace(",", separator).replace("\n", end).encode()), "state"
        )._table
        assert np.array_equal(other.X, plain.X) and np.array_equal(other.y, plain.y)
        assert other.features == plain.features and other.classes == plain.classes


def test_two_marks_are_one(tmp_path: Path) -> None:
    """As files have them that were saved twice; the second one belongs to no name."""
    assert Stream(made(tmp_path, b"\xef\xbb\xbf" * 2 + BASE.encode()), "state")._table.features[1] == "speed"


def test_other_separators_may_stand_in_names_and_values(tmp_path: Path) -> None:
    comma = Stream(made(tmp_path, "a;b,state\n1;2,p\n3;4,q\n"), "state")._table
    assert comma.features == ("1", "a;b=1;2", "a;b=3;4")
    semi = Stream(made(tmp_path, 'a,b;"c;d";state\n1;x,y;p\n2;z;q\n'), "state")._table
    assert semi.features == ("1", "a,b", "c;d=x,y", "c;d=z")
    tabs = Stream(made(tmp_path, 'a\tstate\n5" pipe\tp\n6" pipe\tq\n'), "state")._table
    assert tabs.features == ("1", 'a=5" pipe', 'a=6" pipe')


def test_decimal_commas_are_told(tmp_path: Path) -> None:
    assert "line 3, column 'speed' is '2,5'; a number is written" in refused(
        tmp_path, "speed;state\n1;p\n2,5;q\n3,25;p\n"
    )
    assert "line 2, column 'speed' is '1,5'" in refused(tmp_path, 'speed,state\n"1,5",p\n"2,5",q\n')
    assert "line 2 has 3 values but the header names 2 columns" in refused(tmp_path, "speed,state\n1,5,p\n2,5,q\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BASE.encode("utf-16"), "is in UTF-16; save it as UTF-8"),
        (BASE.encode("utf-16-be"), "holds NUL bytes; if the file is in UTF-16"),
        (BASE.encode("utf-16-le"), "holds NUL bytes; if the file is in UTF-16"),
        (BASE.encode("utf-32"), "is in UTF-32; save it as UTF-8"),
        (
            BASE.replace("b,", "\xfc,").encode("latin-1"),
            "line 3 holds the byte 0xfc, which is not UTF-8 (is it Latin-1",
        ),
        (BASE.replace("b,", "\xfc,").replace("\n", "\r").encode("latin-1"), "line 3 holds the byte 0xfc"),
        (BASE.replace("b,", "\xfc,").replace("\n", "\r\n").encode("latin-1"), "line 3 holds the byte 0xfc"),
        (BASE.replace("kind", "\xfc").encode("latin-1"), "line 1 holds the byte 0xfc"),
        ((BASE + "5,a,fine\n" * 5000 + "5,\xe4,late\n").encode("latin-1"), "line 5006 holds the byte 0xe4"),
        (b"\x1f\x8b\x08\x00" + bytes(range(256)), "which is not UTF-8"),
        (BASE.replace("b,", "b\0,"), "line 3, column 'kind' holds a NUL byte"),
        (BASE.replace("2.5", "2.5\0"), "line 3, column 'speed' is '2.5\\x00', but the column holds numbers"),
        (BASE.replace("late", "\0"), "line 3, column 'state' holds a NUL byte"),
        ("", "line 1 must name every column, each name once; it is empty"),
        ("\n \n", "it is empty"),
        ("speed,kind,state\n", "has 0 rows of data"),
        ("speed,kind,state", "has 0 rows of data"),
        (BASE.replace("kind", "speed"), "line 1 must name every column, each name once; 'speed' is there 2 times"),
        (BASE.replace("kind", " speed "), "'speed' is there 2 times"),
        ("\n\n" + BASE.replace("kind", ""), "line 3 must name every column, each name once; name 2 of 3 is empty"),
        (BASE.replace("\n", ",\n"), "name 4 of 4 is empty"),
        ("u\u0308,\u00fc,state\n1,2,p\n", "'\u00fc' is there 2 times"),
        (
            BASE.replace("late\n", "late,\n"),
            "line 3 has 4 values but the header names 3 columns; take the separators at its end away",
        ),
        (
            BASE.replace("late\n", "late,,,\n").replace(",", ";"),
            "line 3 has 6 values but the header names 3 columns; take",
        ),
        (BASE.replace(",late", ""), "line 3 has 2 values but the header names 3 columns; correct"),
        (BASE.replace("2.5,b", '2.5,"b" x'), "line 3: ',' expected after '\"'; correct the file"),
        (BASE.replace("2.5,b", '2.5,"b" x').replace(",", "\t"), "line 3: '\t' expected after '\"'"),
        (
            BASE.replace("2.5,b", '2.5,"b'),
            "line 3 (the row goes on to line 5): a quote that opens here is never closed",
        ),
        (BASE.replace("2.5,b", '2.5,"b\n\nc"d'), "line 3 (the row goes on to line 5): ',' expected"),
        (BASE.replace("kind", '"kind'), "line 1 (the row goes on to line 5): a quote that opens here is never closed"),
        (BASE.replace("b,", "b" * 200_000 + ","), "line 3: a value is longer than 131,072 characters"),
        (BASE.replace("b,", '"b,') + "4,c,late\n" * 20_000, "line 3 (the row goes on"),
        (BASE.replace("b,", "b," * 600_000), "line 3: the line is longer than 1,048,576 characters"),
        ("kind" * 600_000, "line 1: the line is longer than"),
    ],
    ids=range(34),
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, content)


@pytest.mark.parametrize(("end", "before"), list(product(["\n", "\r\n", "\r"], ["", "\n", "\n \n\n"])))
def test_the_line_is_the_one_that_an_editor_shows(tmp_path: Path, end: str, before: str) -> None:
    """After blank lines and values of several lines, also within the row itself; whatever is wrong."""
    good = '1,"two\nlines",p\n\n2,"three\n\nlines",q\n'
    for bad, where, said in [
        ("?,x,p\n", 0, "column 'n' has no value"),
        ('3,"a\n\nb",NA\n', 2, "column 'state' has no value"),
        ('3,"a\nb","NA\n"\n', 1, "column 'state' has no value"),
        ("3,x\n", 0, " has 2 values"),
        ('3,"x"y,p\n', 0, "',' expected"),
        ('3,x,"p\n', 0, "a quote that opens here"),
    ]:
        content = f"{before}n,word,state\n{good}{bad}"
        line = content[: content.index(bad)].count("\n") + 1 + where
        assert re.search(rf"line {line}\b.*{said}", refused(tmp_path, content.replace("\n", end)))


@pytest.mark.parametrize(
    ("typed", "written"), [("\u00fcber", "u\u0308ber"), ("u\u0308ber", "\u00fcber"), ("\uac00", "\u1100\u1161")]
)
def test_names_are_found_however_their_letters_are_composed(tmp_path: Path, typed: str, written: str) -> None:
    path = made(tmp_path, f"x,{written},z,state\n1,a,5,p\n2,b,6,q\n")
    assert Stream(path, typed)._table.classes == ("a", "b")
    assert Stream(path, "state", agents_by=typed)._table.groups == ("a", "b")
    assert Stream(path, "state", drop=typed)._table.features == ("1", "x", "z")
    assert Stream(made(tmp_path, f"x,{written},state\n1,7,p\n2,8,q\n"), "state", categories=f"x+{typed}").dim == 5


def test_a_path_is_taken_wherever_a_text_is(tmp_path: Path) -> None:
    path = made(tmp_path, BASE)
    assert Stream(path, "state") == Stream(str(path), "state") == Stream(os.fsencode(path).decode(), "state")
    runs = [
        distopt.simulate("ring", agents=2, scenario=Stream(given, "state"), algorithm="dgd", rounds=2)
        for given in (path, str(path))
    ]
    assert np.array_equal(runs[0]["dynamic_regret"], runs[1]["dynamic_regret"])


def test_what_is_no_regular_file_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "to").symlink_to("/dev/zero")
    made(tmp_path, BASE)
    for path, said in [
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a device, a pipe or a socket"),
        (tmp_path / "to", "is a device, a pipe or a socket"),
        (tmp_path / "loop", "cannot look at the file"),
        ("/dev/null", "is a device, a pipe or a socket"),
        (tmp_path / "none.csv", "there is no file"),
        (tmp_path / "a.csv" / "b", "there is no file"),
        ("a\0b", "cannot look at the file"),
        ("a" * 5000, "cannot look at the file"),
        ("", "there is no file|is a folder"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            _ = Stream(path, "state").dim
        assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_held_is_refused_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, BASE + "5,a,fine\n" * 10_000)
    monkeypatch.setattr(room, "available", lambda: 100_000)
    size = f"{path.stat().st_size:,}"
    with pytest.raises(
        InputError,
        match=rf"has {size} bytes; to hold its rows would need about 0.7 MB of memory, and 0.1 MB are free; .*drop=",
    ):
        _ = Stream(path, "state").dim
    with path.open("wb") as handle:  # as many NULs as a disk of 4 TB would hold, without the disk
        handle.truncate(2**42)
    with pytest.raises(InputError, match="line 1: the line is longer than"):
        _ = Stream(path, "state").dim


def test_a_file_that_changes_on_its_way_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of one name, size and time, seen from two folders."""
    for folder, value in (("one", "1.5"), ("two", "7.5")):
        (tmp_path / folder).mkdir()
        made(tmp_path / folder, BASE.replace("1.5", value))
        os.utime(tmp_path / folder / "a.csv", (1, 1))
    seen = []
    for folder in ("one", "two"):
        monkeypatch.chdir(tmp_path / folder)
        seen.append(float(Stream("a.csv", "state", standardise=False)._table.X[0, 1]))
    assert seen == [1.5, 7.5]


def test_specs_read_dialects_names_and_parts_of_a_file(tmp_path: Path) -> None:
    rng = random.Random(0)
    names = ["5e9120", "a01c3f", "77b2d0", "inf"]
    rows = [
        [f"{rng.gauss(0, 1):.3f}", names[k % 4], f"2024-01-01 {k:02d}:00", rng.choice(["fine", "late"])]
        for k in range(40)
    ]

    def spec(separator: str, prefix: str, more: str) -> str:
        out = io.StringIO()
        csv.writer(out, delimiter=separator).writerows(
            [["speed", "device", "a+b", "state"], *([r[0], prefix + r[1], *r[2:]] for r in rows)]
        )
        return f"stream:{made(tmp_path, out.getvalue())},label=state{more}"

    for more, width in ((",agents_by=device,drop=a++b", 2), (",drop=a++b,categories=device", 6)):
        read = [
            registry.make("scenarios", spec(separator, prefix, more))._table
            for separator in ",;\t"
            for prefix in ("", "d")
        ]
        assert all(each.X.shape == (40, width) and np.array_equal(each.X, read[0].X) for each in read)
        assert all(np.array_equal(each.group, read[0].group) and np.array_equal(each.y, read[0].y) for each in read)
    result = call("simulate", "ring", "--agents", "4", "--scenario", spec(",", "", ""), "--rounds", "10")
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert "column 'a+b' has 40 different texts" in result.output and "drop=a++b" in result.output


def _river() -> list[tuple[str, list[str], list[list[str]], dict[str, Any]]]:
    from river import datasets

    out: list[tuple[str, list[str], list[list[str]], dict[str, Any]]] = []
    for data, fields in ((datasets.Bananas(), {}), (datasets.Phishing(), {}), (datasets.ImageSegments(), {})):
        drawn = list(data.take(400))
        header = [*map(str, drawn[0][0]), "state"]
        out.append((type(data).__name__, header, [[*map(str, x.values()), str(y)] for x, y in drawn], fields))
    return out


def _sklearn() -> list[tuple[str, list[str], list[list[str]], dict[str, Any]]]:
    from sklearn import datasets

    out: list[tuple[str, list[str], list[list[str]], dict[str, Any]]] = []
    for load in (datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer):
        held = load()
        rows = [
            [*map(repr, map(float, x)), str(held.target_names[y])] for x, y in zip(held.data, held.target, strict=True)
        ]
        random.Random(0).shuffle(rows)
        out.append((load.__name__, [*held.feature_names, "state"], rows, {}))
    return out


def test_data_sets_of_other_packages_are_read_as_they_are(tmp_path: Path) -> None:
    for name, header, rows, fields in [*_river(), *_sklearn()]:
        tables = []
        for separator in (",", ";", "\t"):
            out = io.StringIO()
            csv.writer(out, delimiter=separator).writerows([header, *rows])
            tables.append(Stream(made(tmp_path, out.getvalue()), "state", standardise=False, **fields)._table)
        first = tables[0]
        numbers = [
            k
            for k, column in enumerate(zip(*rows, strict=True))
            if k < len(header) - 1 and column[0] not in ("True", "False")
        ]
        assert all(np.array_equal(first.X, other.X) and first.classes == other.classes for other in tables), name
        for k in numbers:
            assert first.X[:, 1 + first.features[1:].index(header[k])].tolist() == [float(row[k]) for row in rows], (
                name,
                header[k],
            )
        assert [first.classes[k] for k in first.y] == [row[-1] for row in rows], name


def test_the_separator_is_looked_for_once_in_the_header(tmp_path: Path) -> None:
    path = made(tmp_path, BASE.replace(",", ";"))
    assert _csv.CsvFile(str(path)).separated("state").separator == ";"
    assert "did you mean 'state'?" in refused(tmp_path, BASE.replace(",", ";"), label="stat")
    assert "it has 'speed', 'kind', 'state'" in refused(tmp_path, BASE.replace(",", "\t"), label="q7")
