"""The grammar of specs: round trips, positions and names, numbers; anything else is refused in one line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from helpers.asking import call, one
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distopt.catalog import registry
from distopt.catalog.spec import (
    DEEPEST,
    LARGEST,
    LONGEST,
    Spec,
    Value,
    quoted,
    real,
    shown,
    values,
    whole,
)
from distopt.catalog.spec_files import rebased
from distopt.errors import InputError, printable
from distopt.runs import sweep
from distopt.runs.sweep import KINDS

CASES = settings(max_examples=200, deadline=None, derandomize=True)
ODD = st.text(st.sampled_from("ab=,:()[]'\" .py/\\~\t\n_-1é\x1b[0m"), max_size=14)


@CASES
@given(ODD)
@example("'a'b\"")
@example(".py:.py(")
def test_any_text_is_a_spec_or_refused(text: str) -> None:
    for read in (lambda: Spec.parse(text).points(), lambda: values(text), lambda: Spec.parse(text).replace("k", "v")):
        try:
            read()
        except InputError as error:
            assert str(error)


TEXTS = ODD.filter(lambda text: not ("'" in text and '"' in text))
MADE = st.lists(
    st.tuples(st.sampled_from(["", "a", "b"]), TEXTS), max_size=4, unique_by=lambda pair: pair[0] or object()
)


@CASES
@given(st.sampled_from(["gt", "d (x)/mine.py", "a b"]), MADE)
def test_a_spec_that_is_made_is_parsed_from_its_spelling(name: str, given: list[tuple[str, str]]) -> None:
    made = Spec(name, tuple(Value(text, key) for key, text in given))
    parsed = Spec.parse(str(made))
    assert parsed == made and str(parsed) == str(made)
    assert Spec.parse(f"a:b={quoted(made.inside)}").values[0].text == made.inside


@CASES
@given(ODD)
def test_a_spec_is_spelled_as_it_was_typed(text: str) -> None:
    try:
        spec = Spec.parse(f"gt:{text}")
    except InputError:
        return
    assert str(spec) == f"gt:{text}".strip()
    plain = str(Spec(spec.name, spec.values))  # the same values, without the blanks around them
    assert Spec.parse(plain) == spec
    assert [Spec.parse(str(point)) for point in spec.points()] == spec.points() if all_plain(spec) else True


def all_plain(spec: Spec) -> bool:
    """Whether its lists are lists of values."""
    return all(grid.entries and all(grid.entries) for grid in spec.grids)


@CASES
@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.lists(st.sampled_from(["1", "x", "f(1,2)", "'p,q'"]), min_size=1, max_size=3),
        min_size=1,
    )
)
def test_the_points_of_a_grid_are_those_of_replacing_each_value(lists: dict[str, list[str]]) -> None:
    spec = Spec.parse("n:" + ",".join(f"{key}=[{','.join(entries)}]" for key, entries in lists.items()))
    expected = []
    for chosen in itertools.product(*lists.values()):
        point = spec
        for key, value in zip(lists, chosen, strict=True):
            point = point.replace(key, value.strip("'"))
        expected.append(point)
    assert spec.points() == expected
    assert [str(point) for point in spec.points()] == [
        "n:" + ",".join(f"{key}={value}" for key, value in zip(lists, chosen, strict=True))
        for chosen in itertools.product(*lists.values())
    ]


@CASES
@given(MADE, st.sampled_from("abc"), TEXTS)
def test_replacing_sets_one_value_and_no_other(given: list[tuple[str, str]], key: str, value: str) -> None:
    before = Spec("n", tuple(Value(text, key) for key, text in given))
    after = before.replace(key, value)
    assert dict(after.kwargs) == {**dict(before.kwargs), key: value} and after.args == before.args
    nested = Spec("m", (Value(before.inside, "inner"),)) if not ("'" in str(before) and '"' in str(before)) else None
    if nested is not None:
        inner = nested.replace(f"inner.{key}", "1").kwargs[0][1]
        assert Spec.parse(inner) == before.replace(key, "1")


def test_what_is_not_inside_cannot_be_set() -> None:
    with pytest.raises(InputError, match="'gt:lr=1': b1 belongs to direction, which is not given; add direction=NAME"):
        Spec.parse("gt:lr=1").replace("direction.b1", "0.5")


@CASES
@given(st.lists(ODD.filter(lambda text: not ("'" in text and '"' in text)), min_size=1, max_size=4))
def test_quoted_values_come_back(given: list[str]) -> None:
    spec = Spec.parse(f"name:{','.join(map(quoted, given))}")
    assert spec.args == tuple(given)
    keyed = Spec.parse("name:" + ",".join(f"k{k}={quoted(value)}" for k, value in enumerate(given)))
    assert [value for _, value in keyed.kwargs] == given
    nested = (
        Spec.parse(f"a:b={quoted(f'c({quoted(given[0])})')}") if "'" not in given[0] and '"' not in given[0] else None
    )
    if nested is not None and "'" not in nested.kwargs[0][1][:1]:
        assert Spec.parse(nested.kwargs[0][1]).args == (given[0],)
    for value in given:
        assert dict(Spec.parse("n:a=1,k=2").replace("k", value).kwargs)["k"] == value
        assert Spec.parse("n:1,2,c=3").replace("b", value, ["a", "b"]).args == ("1", value)


def reference(text: str) -> list[str]:
    """The points of a grid whose lists hold plain values, by splitting it at the brackets."""
    pieces = [piece.partition("]") for piece in text.split("[")]
    lists = [inner.split(",") for inner, _, _ in pieces[1:]]
    return [
        pieces[0][0] + "".join(value + pieces[k + 1][2] for k, value in enumerate(chosen))
        for chosen in itertools.product(*lists)
    ]


@pytest.mark.parametrize(
    "text", ["gt:lr=[1,2]", "gt:[1,2],b=[3,4,5],c=6", "gt:lr=[1],direction=adam(b1=[.1,.2],b2=[1,2])", "gt:x=1"]
)
def test_a_grid_is_every_choice(text: str) -> None:
    assert [str(point) for point in Spec.parse(text).points()] == reference(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gt:" + "a(" * 5000, "deep"),
        ("gt:d=" + "adam(d=" * 30 + ")" * 30, f"more than {DEEPEST} deep"),
        ("gt:lr=" + "1" * LONGEST, "characters"),
        (",".join(["gt:a=[1,2]"] + [f"b{k}=[1,2]" for k in range(40)]), "a grid of 2,199,023,255,552 points"),
        (".py:" * 20000, "there is no file '.py'"),
        ("gt:" + ",".join(f"k{k}=1" for k in range(9000)), "no parameter 'k0'"),
    ],
)
def test_what_is_too_much_is_refused_at_once(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        for point in Spec.parse(text).points():
            registry.make("algorithms", point)


# ------------------------------------------------------------------------------------------------------------------ numbers


NUMBERS: dict[str, tuple[int | None, float | None]] = {
    "0": (0, 0.0),
    "-3": (-3, -3.0),
    "+7": (7, 7.0),
    "007": (7, 7.0),
    str(LARGEST): (LARGEST, float(LARGEST)),
    str(-LARGEST): (-LARGEST, -float(LARGEST)),
    str(LARGEST + 1): (None, 2.0**63),
    "1" + "0" * 5000: (None, None),
    "1e3": (None, 1000.0),
    ".5": (None, 0.5),
    "5.": (None, 5.0),
    "1E-2": (None, 0.01),
    "1e400": (None, None),
    "-1e400": (None, None),
    "1_0": (None, None),
    "１２": (None, None),
    "٣": (None, None),
    "0x10": (None, None),
    "1e": (None, None),
    "nan": (None, None),
    "inf": (None, None),
    "-Infinity": (None, None),
    "": (None, None),
    "1,0": (None, None),
    "1 0": (None, None),
    "true": (None, None),
    "1" * 300: (None, float("1" * 300)),
    "0" * 5000: (0, 0.0),
    "--1": (None, None),
    "²": (None, None),
}


@pytest.mark.parametrize("text", list(NUMBERS), ids=lambda text: text[:12])
def test_numbers_are_the_same_in_specs_options_and_sweeps(text: str, own_folder: None) -> None:
    integer, floating = NUMBERS[text]
    for read, expected in ((whole, integer), (real, floating)):
        if expected is None:
            with pytest.raises(ValueError, match="^is "):
                read(text)
        else:
            assert read(text) == expected
    words = ["show", "ring", "--agents", "4", "--seed", text, "--out", "r.png"]
    assert call(*words).exit_code == (2 if integer is None or integer < 0 else 0)
    swept = {"topology": "ring", "agents": 4, "algorithm": "dgd"}
    if text and "," not in text:
        good = integer is not None and integer >= 0
        try:
            (point,) = sweep.points(swept, [f"seed={text}"], "here")
            assert good and point.experiment.seed == integer
        except InputError as error:
            assert not good, error
        spec = f"scenario:dim={text}"
        try:
            assert registry.make("scenarios", spec.replace("scenario", "moving_target")).dim == integer
        except InputError:
            assert integer is None or not 1 <= integer <= 2**53
        try:
            assert registry.make("algorithms", f"dgd:lr={text}").lr == floating
        except InputError:
            assert floating is None or floating <= 0


def test_what_is_shown_of_a_value_is_short() -> None:
    assert shown(10**5000) == "a value of type int"
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown(list(range(1000)))) == 80


# ------------------------------------------------------------------------------------------------- positions and names


def maker_cases() -> list[Any]:
    return [pytest.param(kind, name, id=f"{kind}-{name}") for kind in registry.KINDS for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), maker_cases())
def test_a_value_by_position_is_that_of_its_name_in_every_part(kind: str, name: str) -> None:
    free = registry.free(kind, name)
    given = [f"v{k}" for k in range(len(free))]
    for count in range(len(free) + 1):
        parts = [*given[:count], *(f"{key}={value}" for key, value in zip(free[count:], given[count:], strict=True))]
        spec = f"{name}:{','.join(parts)}" if parts else name
        parsed, normal = Spec.parse(spec), registry.normal(kind, spec)
        assert (normal.name, normal.args, normal.kwargs) == (name, (), tuple(sorted(zip(free, given, strict=True))))
        for key in free:
            assert dict(registry.normal(kind, str(parsed.replace(key, "new", free))).kwargs) == {
                **dict(zip(free, given, strict=True)),
                key: "new",
            }
    if kind in ("topologies", "scenarios", "algorithms", "channels"):
        part = next(part for part, each in KINDS.items() if each == kind)
        for key in free:
            start = {"topology": "ring", "agents": 4, "algorithm": "dgd", part: f"{name}:{','.join(given)}"}
            found = sweep.points(start, [f"{part}.{key}=p,q"], "here")
            assert [dict(registry.normal(kind, getattr(point.experiment, part)).kwargs)[key] for point in found] == [
                "p",
                "q",
            ]


def test_a_path_by_position_is_replaced_in_a_sweep(own_folder: None) -> None:
    for name in ("good", "other"):
        Path(f"{name}.csv").write_text("a,y\n" + "1,0\n2,1\n3,0\n4,1\n" * (10 if name == "good" else 12))
    Path("s.toml").write_text(
        'topology = "ring"\nagents = 4\nrounds = 3\nscenario = "stream:good.csv,label=y"\nalgorithm = "dgd"\n'
    )
    result = call("sweep", "s.toml", "--set", "scenario.path=good.csv,other.csv", "--out", "s", "--workers", "1")
    assert result.exit_code == 0, result.output
    runs = [one(folder) for folder in sorted(Path("s").iterdir()) if folder.is_dir()]
    assert [run.info["experiment"]["scenario"].split(" #")[0] for run in runs] == [
        "stream:good.csv,label=y",
        "stream:other.csv,label=y",
    ]
    assert len({run.info["fingerprint"] for run in runs}) == 2
    twice = call(
        "sweep",
        "s.toml",
        "--set",
        "scenario='stream:good.csv,label=y','stream:label=y,path=good.csv'",
        "--out",
        "t",
        "--workers",
        "1",
    )
    assert twice.exit_code == 2
    assert "is in the sweep twice" in twice.stderr


def test_a_grid_of_a_file_stays_a_grid_in_another_folder(own_folder: None) -> None:
    Path("mine.py").write_text("")
    moved = rebased("mine.py:lr=[1, 2],'a,b',path='[c]'", "elsewhere")
    assert moved == "../mine.py:'a,b',lr=[1, 2],path='[c]'"
    assert len(Spec.parse(moved).points()) == 2


def test_a_users_own_class_may_fail_in_any_way(own_folder: None) -> None:
    faults = {
        "raises": ("def __init__(self, lr: float = 0.1): raise KeyError(lr)", "KeyError"),
        "annotated": ("def __init__(self, lr: Nothing = 0.1): pass", "its parameters cannot be read"),
        "starred": ("def __init__(self, *args, **more): raise IndexError('no')", "IndexError: no"),
        "divides": ("def __init__(self, lr: float = 0.1): self.lr = 1 / (lr - lr)", "ZeroDivisionError"),
    }
    for name, (line, says) in faults.items():
        Path(f"{name}.py").write_text(
            f"from __future__ import annotations\nclass {name.title()}:\n    {line}\n    update = init = None\n"
        )
        with pytest.raises(InputError, match=says):
            registry.make("algorithms", f"{name}.py")
    Path("takes.py").write_text(
        "from pathlib import Path\nclass Takes:\n    update = init = None\n"
        "    def __init__(self, path: Path, also: Path | None = None): self.path, self.also = path, also\n"
    )
    made = registry.make("algorithms", "takes.py:a.csv,also=b.csv")
    assert (made.path, made.also) == (Path("a.csv"), Path("b.csv"))


def test_control_characters_are_shown_and_not_sent() -> None:
    for code in (*range(32), 127, *range(128, 160), 0x202E, 0x2028, 0xDC80):
        told = printable(f"a{chr(code)}b")
        assert told.isprintable() and told != f"a{chr(code)}b", hex(code)
    assert printable("größe 東京 \U0001f600 é") == "größe 東京 \U0001f600 é"
