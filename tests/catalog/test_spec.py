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
    parse,
    points,
    quoted,
    real,
    shown,
    values,
    whole,
    with_value,
)
from distopt.errors import InputError, printable
from distopt.runs import sweep

CASES = settings(max_examples=200, deadline=None, derandomize=True)
ODD = st.text(st.sampled_from("ab=,:()[]'\" .py/\\~\t\n_-1é\x1b[0m"), max_size=14)


@CASES
@given(ODD)
@example("'a'b\"")
@example(".py:.py(")
def test_any_text_is_a_spec_or_refused(text: str) -> None:
    for read in (parse, points, values, lambda text: with_value(text, "k", "v")):
        try:
            read(text)
        except InputError as error:
            assert str(error)


@CASES
@given(st.lists(ODD.filter(lambda text: not ("'" in text and '"' in text)), min_size=1, max_size=4))
def test_quoted_values_come_back(given: list[str]) -> None:
    spec = parse(f"name:{','.join(map(quoted, given))}")
    assert spec.args == tuple(given)
    keyed = parse("name:" + ",".join(f"k{k}={quoted(value)}" for k, value in enumerate(given)))
    assert [value for _, value in keyed.kwargs] == given
    nested = parse(f"a:b={quoted(f'c({quoted(given[0])})')}") if "'" not in given[0] and '"' not in given[0] else None
    if nested is not None and "'" not in nested.kwargs[0][1][:1]:
        assert parse(nested.kwargs[0][1]).args == (given[0],)
    for value in given:
        assert dict(parse(with_value("n:a=1,k=2", "k", value)).kwargs)["k"] == value
        assert parse(with_value("n:1,2,c=3", "b", value, ["a", "b"])).args == ("1", value)


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
    assert points(text) == reference(text)


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
        for point in points(text):
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
        assert registry.normal(kind, spec) == (name, tuple(sorted(zip(free, given, strict=True))))
        for key in free:
            assert dict(registry.normal(kind, registry.with_value(kind, spec, key, "new"))[1]) == {
                **dict(zip(free, given, strict=True)),
                key: "new",
            }
    if kind in ("topologies", "scenarios", "algorithms", "channels"):
        from distopt.runs.sweep import KINDS

        part = next(part for part, each in KINDS.items() if each == kind)
        for key in free:
            start = {"topology": "ring", "agents": 4, "algorithm": "dgd", part: f"{name}:{','.join(given)}"}
            found = sweep.points(start, [f"{part}.{key}=p,q"], "here")
            assert [dict(registry.normal(kind, getattr(point.experiment, part))[1])[key] for point in found] == [
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
