"""The scenario made of a user's CSV file: against a slow loop from its definition, and what it refuses."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.scenarios.stream import Stream, running_standard, table


def rounds(*t: int) -> Tensor:
    return torch.tensor(t).reshape(-1, 1, 1, 1)


def at(b: Any, k: int) -> Any:
    """Round k of a batch, the way a runner slices it."""
    return type(b)(*(leaf[k if leaf.shape[0] > 1 else 0] for leaf in b))


def _write(path: Path, header: list[str], rows: list[list[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])
    return str(path)


def _rows(count: int, classes: int = 2, seed: int = 0) -> list[list[Any]]:
    rng = random.Random(seed)
    return [
        [
            rng.gauss(1000, 3),
            rng.choice(["red", "green", "blue"]),
            rng.randrange(9),
            "abcd"[rng.randrange(classes)],
            rng.choice("xyz"),
        ]
        for _ in range(count)
    ]


HEADER = ["height", "colour", "count", "kind", "place"]


def test_the_sample_ships_and_reads() -> None:
    s = Stream()
    assert s.dim == 11 and s.length(3) == 13_005 // 3 and Stream(step=10).length(3) == 1300
    assert s.rounds is None


@pytest.mark.parametrize("classes", [2, 4])
def test_stream_against_a_slow_loop(tmp_path: Path, classes: int) -> None:
    rows = _rows(90, classes)
    s = Stream(_write(tmp_path / "a.csv", HEADER, rows), "kind", window=5, step=4, agents_by="place")
    kinds, colours, places = (
        sorted({r[3] for r in rows}),
        list(dict.fromkeys(r[1] for r in rows)),
        list(dict.fromkeys(r[4] for r in rows)),
    )
    n = 2  # three places: the third is dealt to agent 0
    a = []
    for r, row in enumerate(rows):
        number = []
        for k in (0, 2):
            past = [float(rows[q][k]) for q in range(r + 1)]
            spread = float(np.std(past))
            number.append((float(row[k]) - float(np.mean(past))) / spread if spread else 0.0)
        a.append([1.0, number[0], *(float(row[1] == c) for c in colours), number[1]])
    assert s.dim == 6 * (1 if classes == 2 else classes)
    x = torch.randn(2, n, s.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 3
    batch = s.batch(rounds(0, 2, 21), Key(0, range(n), range(2), n))
    for k, t in enumerate((0, 2, 21)):
        b = at(batch, k)
        loss = s.loss(x, b)
        for i in range(n):
            mine = [r for r in range(4 * (t + 1)) if places.index(rows[r][4]) % n == i][-5:]
            for trial in range(2):
                want = 0.5 * s.l2 * float(x[trial, i] @ x[trial, i])
                for r in mine:
                    scores = (x[trial, i].reshape(-1, 6) @ torch.tensor(a[r], dtype=torch.float64)).tolist()
                    c = kinds.index(rows[r][3])
                    if classes == 2:
                        want += math.log1p(math.exp(-(1 if c else -1) * scores[0])) / len(mine)
                    else:
                        want += (math.log(sum(map(math.exp, scores))) - scores[c]) / len(mine)
                assert float(loss[trial, i]) == pytest.approx(want, rel=1e-9)


def test_later_rows_never_change_earlier_features(tmp_path: Path) -> None:
    rows = _rows(400)
    first = table(_write(tmp_path / "a.csv", HEADER, rows), "kind", "place", True)
    changed = [*rows[:250], *([r[0] * 50 - 7, r[1], 100 - r[2], r[3], r[4]] for r in rows[250:])]
    second = table(_write(tmp_path / "b.csv", HEADER, changed), "kind", "place", True)
    assert np.array_equal(first.X[:250], second.X[:250]) and not np.array_equal(first.X[250:], second.X[250:])
    assert np.array_equal(first.X[:250], table(_write(tmp_path / "c.csv", HEADER, rows[:250]), "kind", "place", True).X)


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1e9, 1e-3), (-5.0, 1e60), (3.0, 0.0)])
def test_running_standard_keeps_its_digits(offset: float, scale: float) -> None:
    z = np.random.default_rng(0).standard_normal(300) + np.linspace(0, 30, 300)  # it also drifts away from its start
    x = offset + scale * z
    got = running_standard(x[:, None])[:, 0]
    exact = x.astype(np.longdouble)
    for r in (1, 2, 50, 299):
        spread = exact[: r + 1].std()
        want = float((exact[r] - exact[: r + 1].mean()) / spread) if spread else 0.0
        assert got[r] == pytest.approx(want, rel=1e-6 if offset == 1e9 else 1e-11, abs=1e-9)
    assert got[0] == 0


def test_a_million_rows_are_read_by_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distopt.scenarios import _table

    rows = _rows(100)
    path = _write(tmp_path / "a.csv", HEADER, rows)
    whole = table(path, "kind", None, True)
    _table._read.cache_clear()
    monkeypatch.setattr(_table, "_CHUNK", 7)
    parts = table(path, "kind", None, True)
    assert parts is not whole and np.array_equal(parts.X, whole.X) and np.array_equal(parts.y, whole.y)
    with pytest.raises(InputError, match="line 52, column 'count'"):
        bad = [list(r) for r in rows]
        bad[50][2] = "many"
        table(_write(tmp_path / "b.csv", HEADER, bad), "kind", None, True)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", HEADER, _rows(30))
    before = table(path, "kind", None, True)
    assert table(path, "kind", None, True) is before
    _write(tmp_path / "a.csv", HEADER, _rows(31))
    assert len(table(path, "kind", None, True).y) == 31


@pytest.mark.parametrize("step", [None, 3])
def test_a_run_lasts_as_long_as_its_file(tmp_path: Path, step: int | None) -> None:
    import distopt

    path = _write(tmp_path / "a.csv", HEADER, _rows(50))
    s = Stream(path, "kind", step=step)
    per = step or 4
    assert s.length(4) == 50 // per
    s.batch(rounds(50 // per - 1), Key(0, range(4), [0], 4))
    with pytest.raises(InputError, match=f"last {50 // per} rounds"):
        s.batch(rounds(50 // per), Key(0, range(4), [0], 4))
    run = distopt.simulate("ring", agents=4, scenario=s, algorithm="dgd")
    assert len(run.rounds) == 50 // per
    from distopt.checks import check_scenario

    check_scenario(s)  # asks for rounds that there are


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _write(tmp_path / "a.csv", HEADER, _rows(20))
    assert Stream("~/a.csv", "kind").length(2) == 10
    with pytest.raises(InputError, match="no file '~/b.csv'"):
        Stream("~/b.csv", "kind").length(2)


def test_equal_numbers_are_one_class(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", ["x", "y"], [[1, "1"], [2, "0.0"], [3, "0"], [4, "1.00"], [5, "-0"]])
    data = table(path, "y", None, False)
    assert data.classes == ("0.0", "1") and data.y.tolist() == [1, 0, 0, 1, 0]
    texts = table(_write(tmp_path / "b.csv", ["x", "y"], [[1, "1"], [2, "0.0"], [3, "0"], [4, "no"]]), "y", None, False)
    assert texts.classes == ("0", "0.0", "1", "no")  # one of them is no number
    ids = [[1, "9007199254740992"], [2, "9007199254740993"]]  # equal in float64
    assert len(table(_write(tmp_path / "c.csv", ["x", "y"], ids), "y", None, False).classes) == 2
    with pytest.raises(InputError, match="has 1 different values"):
        table(_write(tmp_path / "d.csv", ["x", "y"], [[1, "1"], [2, "1.0"]]), "y", None, False)


def test_classes_sort_as_numbers(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", ["x", "y"], [[1, "10"], [2, "9"], [3, "10"]])
    data = table(path, "y", None, False)
    assert data.classes == ("9", "10") and data.y.tolist() == [1, 0, 1] and data.X.tolist() == [[1, 1], [1, 2], [1, 3]]


@pytest.mark.parametrize("bad", ["", "  ", "nan", "NA", "inf", "-inf", "1e300", "1_000", "tall"])
def test_a_bad_number_is_refused_with_its_place(tmp_path: Path, bad: str) -> None:
    rows = _rows(20)
    rows[11][0] = bad
    with pytest.raises(InputError, match=r"a\.csv, line 13, column 'height'"):
        _ = Stream(_write(tmp_path / "a.csv", HEADER, rows), "kind").dim


@pytest.mark.parametrize("column", [1, 3, 4])
@pytest.mark.parametrize("bad", ["", "NaN", "None", "?"])
def test_a_missing_text_is_refused_with_its_place(tmp_path: Path, column: int, bad: str) -> None:
    for line in (2, 9):
        rows = _rows(20)
        rows[line - 2][column] = bad
        with pytest.raises(InputError, match=f"line {line}, column '{HEADER[column]}'"):
            _ = Stream(_write(tmp_path / "a.csv", HEADER, rows), "kind", agents_by="place").dim


def test_blank_lines_and_quoted_line_ends_do_not_shift_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('x,word,y\n\n1,"two\nlines",a\n \t\n2,one,b\nbad,one,a\n')
    with pytest.raises(InputError, match="line 7, column 'x' is 'bad'"):
        table(str(path), "y", None, True)
    path.write_text('x,word,y\n\n1,"two\nlines",a\n   \n2,one,b\n3,one,a\n  ')
    assert table(str(path), "y", None, False).features == ("1", "x", "word=two\nlines", "word=one")


def _refused(message: str, path: str, n: int = 2, t: int = 0, **fields: Any) -> None:
    with pytest.raises(InputError, match=message):
        Stream(path, **{"label": "kind", **fields}).batch(rounds(t), Key(0, range(n), [0], n))


def test_stream_says_what_is_wrong(tmp_path: Path) -> None:
    rows = _rows(50)
    path = _write(tmp_path / "a.csv", HEADER, rows)
    _refused("no file 'nothing.csv'", "nothing.csv")
    _refused("label='kin' is not a column .* did you mean 'kind'", path, label="kin")
    _refused("agents_by='plaice' .* did you mean 'place'", path, agents_by="plaice")
    _refused("it has 'height', 'colour'", path, label="q7")
    _refused("both 'kind'", path, agents_by="kind")
    _refused("'place' has 3 values for 5 agents; use 1 to 3", path, n=5, agents_by="place")
    _refused("at 2 rows per round the 50 rows .* last 25 rounds", path, t=25)
    _refused("last 0 rounds", path, step=51)
    _refused("has 1 different values", _write(tmp_path / "b.csv", HEADER, [[*r[:3], "same", "x"] for r in rows]))
    _refused("has 1 rows of data", _write(tmp_path / "c.csv", HEADER, rows[:1]))
    _refused("line 4 has 4 values but the header names 5", _write(tmp_path / "d.csv", HEADER, [*rows[:2], rows[2][:4]]))
    _refused("line 1 must name every column", _write(tmp_path / "e.csv", ["a", "a"], [[1, 2]]))
    _refused(
        "'colour' has 50 different texts",
        _write(tmp_path / "f.csv", HEADER, [[r[0], f"c{k}", *r[2:]] for k, r in enumerate(rows)]),
    )
    _refused("no column besides", _write(tmp_path / "g.csv", ["kind"], [["a"], ["b"]]))
    many = [[*r[:3], f"k{k}", r[4]] for k, r in enumerate(_rows(150))]
    _refused("150 different values; it must name 2 to 100", _write(tmp_path / "h.csv", HEADER, many))
    (tmp_path / "i.csv").write_bytes(b"kind,x\n\xff\xfe,1\n")
    _refused("i.csv, line 2 holds the byte 0xff, which is not UTF-8 .*Latin-1", str(tmp_path / "i.csv"))
    (tmp_path / "j.csv").write_text("")
    _refused("line 1 must name", str(tmp_path / "j.csv"))
    _refused("is a folder", str(tmp_path))
