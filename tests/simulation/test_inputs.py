"""Every value of every type at every setting, in TOML and in Python: a run, or one line that says what is wrong."""

from __future__ import annotations

import datetime
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from helpers.asking import ASK, TOML, call, one

import distopt
from distopt.errors import InputError
from distopt.experiment import Experiment

pytestmark = pytest.mark.usefixtures("own_folder")

SETTINGS: dict[str, str] = {
    "topology": '"ring"',
    "agents": "4",
    "scenario": '"moving_target"',
    "algorithm": '"dgd"',
    "channel": '"exact"',
    "weights": '"metropolis"',
    "drop_links": "0.0",
    "drop_messages": "0.0",
    "sleep": "0.0",
    "delay": '""',
    "feedback": '"two_point"',
    "feasible": '"ball"',
    "clock": '""',
    "churn": '""',
    "rounds": "2",
    "trials": "1",
    "seed": "0",
    "dtype": '"float64"',
    "every": "1",
    "x0": "0.0",
    "record": "[]",
    "folder": '"."',
}
TYPES = {
    "text": '"x"',
    "no text": '""',
    "control": '"a\\u001B[31m\\n"',
    "integer": "7",
    "minus": "-7",
    "zero": "0",
    "2^63": str(2**63),
    "huge": "1" + "0" * 400,
    "digits": "1" + "0" * 5000,
    "float": "0.5",
    "inf": "inf",
    "nan": "nan",
    "true": "true",
    "date": "1979-05-27",
    "time": "07:32:00",
    "moment": "1979-05-27T07:32:00Z",
    "list": "[1, 2]",
    "no list": "[]",
    "texts": '["a", "b"]',
    "lists": "[[1, 2], [3]]",
    "mixed": '[1, "a", 1979-05-27]',
    "table": "{a = 1}",
    "tables": "[{a = 1}]",
    "deep": "[" * 2000 + "]" * 2000,
}


def refused_in_a_line(result: Any) -> None:
    lines = [line for line in result.stderr.splitlines() if line.startswith("distopt: ")]
    assert len(lines) == 1, result.output
    assert "unexpected" not in lines[0]
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    assert len(lines[0]) < 500


@pytest.mark.parametrize("key", list(SETTINGS))
@pytest.mark.parametrize("kind", list(TYPES))
def test_every_type_at_every_key_of_a_toml_file(key: str, kind: str) -> None:
    Path("e.toml").write_text(
        "".join(f"{name} = {TYPES[kind] if name == key else value}\n" for name, value in SETTINGS.items())
    )
    result = call("simulate", "e.toml", "--out", "o")
    if result.exit_code == 0:
        assert len(one("o").rounds) > 0
    else:
        assert result.exit_code == 2, result.output
        refused_in_a_line(result)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (TOML.encode("utf-16"), "it is not UTF-8 text"),
        (TOML.replace("ring", "rüng").encode("latin-1"), "it is not UTF-8 text"),
        (b"\x00\x01\x02", "not TOML"),
        (b"\xff" * 9, "it is not UTF-8 text"),
        (b"topology = 'ring'\ntopology = 'ring'\n", "not TOML"),
        (b"a = " + b"[" * 100000, "too deep"),
        (b"a = 1" + b"0" * 9000, "not TOML"),
        (b"", "topology is missing"),
        (b"\xef\xbb\xbf", "topology is missing"),
        (b"[topology]\n" * 2, "not TOML"),
        (b"#" * (2**24 + 1), "too large"),
    ],
)
@pytest.mark.parametrize("command", ["simulate", "sweep"])
def test_files_that_are_no_toml(command: str, content: bytes, says: str) -> None:
    Path("e.toml").write_bytes(content)
    result = call(command, "e.toml", "--out", "o")
    assert result.exit_code == 2
    refused_in_a_line(result)
    assert says in result.stderr


def test_what_is_no_file_is_no_toml() -> None:
    Path("d.toml").mkdir()
    Path("z.toml").symlink_to("/dev/zero")
    for name in ("d.toml", "z.toml", "gone.toml"):
        result = call("simulate", name)
        assert result.exit_code == 2
        refused_in_a_line(result)
        assert name in result.stderr


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    Path("e.toml").write_text(TOML, encoding="utf-8-sig")
    assert call("simulate", "e.toml", "--out", "o").exit_code == 0
    assert call("sweep", "e.toml", "--set", "seed=1", "--out", "s", "--workers", "1").exit_code == 0
    expected = Experiment("ring", 4, "moving_target", "gtadam", rounds=20)
    assert one("o").info["fingerprint"] == expected.fingerprint()


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


WRONG: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "2^63": 2**63,
    "digits": 10**5000,
    "0.5": 0.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "complex": 1j,
    "text": "x",
    "empty": "",
    "null": "a\0b",
    "bytes": b"ring",
    "list": [1, "a"],
    "no list": [],
    "tuple": (1, 2),
    "dict": {"a": 1},
    "set": {1},
    "object": object(),
    "Unspeakable": Unspeakable(),
    "class": int,
    "function": len,
    "array": np.ones(3),
    "0-d": np.array(4),
    "2-d": np.ones((2, 2)),
    "texts": np.array(["a"]),
    "objects": np.array([None, {}], object),
    "tensor": torch.ones(3),
    "graph": nx.path_graph(3),
    "no graph": nx.Graph(),
    "date": datetime.date(1979, 5, 27),
    "path": Path("nowhere.csv"),
    "path.py": Path("nowhere.py"),
    "module": np,
    "iterator": iter([1]),
    "np.int": np.int64(4),
    "np.float": np.float32(0.5),
    "np.nan": np.float64("nan"),
}
ARGUMENTS: dict[str, Any] = {
    "topology": "ring",
    "agents": 4,
    "scenario": "moving_target",
    "algorithm": "dgd",
    "channel": "exact",
    "weights": "metropolis",
    "rounds": 2,
    "trials": 1,
    "seed": 0,
    "dtype": "float64",
    "every": 1,
    "x0": None,
    "record": (),
    "drop_links": 0.0,
    "drop_messages": 0.0,
    "sleep": 0.0,
    "delay": "",
    "feedback": "",
    "feasible": "",
    "clock": "",
    "churn": "",
    "agentwise": None,
    "mode": "auto",
    "engine": "local",
}


@pytest.mark.parametrize("name", list(ARGUMENTS))
@pytest.mark.parametrize("kind", list(WRONG))
def test_every_type_at_every_argument_of_simulate(name: str, kind: str) -> None:
    if name in ("topology", "scenario", "algorithm", "channel", "engine") and kind in ("function", "class", "module"):
        return  # what is callable, or has the methods, is the user's own code
    asked = {**ARGUMENTS, name: WRONG[kind]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an odd value may be warned of; here it is about errors
        try:
            run = distopt.simulate(asked.pop("topology"), **asked)
        except InputError as error:
            assert 0 < len(str(error)) < 500
            assert "\n" not in str(error)
            return
    assert len(run.rounds) > 0


@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind != "iterator"])
def test_every_type_as_the_folder_of_a_run(kind: str) -> None:
    with pytest.raises(InputError):
        distopt.load(WRONG[kind])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("mode", "Eager", "mode='Eager': must be one of auto, eager, compiled"),
        ("engine", None, "engine=None: must be a spec such as"),
        ("agents", np.ones(3), r"agents=array\(\[1., 1., 1.\]\) is not a whole number"),
        ("drop_links", np.zeros(1), "must be a probability"),
        ("seed", 2**63, f"seed={2**63}: must be at most {2**63 - 1}"),
        ("seed", 10**5000, "seed=a value of type int: must be at most"),
        ("engine", "threads:workers=２", "workers=２ is not a whole number"),
        ("engine", "threads:workers=9" + "9" * 30, "is too large a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "value",
)
def test_what_is_said_of_a_wrong_argument(name: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        distopt.simulate("ring", **{**{key: each for key, each in ARGUMENTS.items() if key != "topology"}, name: value})


# ---------------------------------------------------------------------------------------------------------------- terminals

ESCAPE = "a\x1b[31m\x9b\u202e\nb"


def test_control_characters_of_names_do_not_reach_the_terminal() -> None:
    method = "class Odd:\n    channels = ('x',)\n    def init(self, x): return ()\n    def update(self, g, s, x, mix): return x, s\n"
    Path(f"{ESCAPE}.py").write_text(method)
    Path(f"{ESCAPE}.edges").write_text("0 1\n1 2\n")
    Path(f"{ESCAPE}.toml").write_text("topology = 3 4\n")
    commands: list[list[str]] = [
        [*ASK, "--algorithm", f"{ESCAPE}.py"],
        [*ASK, "--algorithm", f"{ESCAPE}.py", "--algorithm", "dgd", "--out", ESCAPE],
        ["show", f"file:{ESCAPE}.edges"],
        ["show", f"file:{ESCAPE}.csv"],
        ["simulate", f"{ESCAPE}.toml"],
        ["simulate", f"{ESCAPE}"],
        ["list", ESCAPE],
        ["resume", ESCAPE + "x"],
        [*ASK, "--algorithm", f"dgd:lr={ESCAPE}"],
        [*ASK, "--agents", ESCAPE],
        [*ASK, "--scenario", f"{ESCAPE}.py"],
        ["sweep", f"{ESCAPE}.toml"],
        [*ASK, "--out", f"{ESCAPE}1"],
        [*ASK, "--record", ESCAPE],
        [*ASK, "--weights", ESCAPE],
        [*ASK, "--dtype", ESCAPE],
        [*ASK, "--channel", ESCAPE],
    ]
    for words in commands:
        result = call(*words)
        assert result.exit_code in (0, 1, 2)
        assert "unexpected" not in result.output, words
        for char in ESCAPE.replace("\n", ""):
            assert char.isprintable() or char not in result.output, (words, result.output)


def run(command: str) -> tuple[int, str]:
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False, errors="replace")
    return done.returncode, done.stdout + done.stderr


CLOSED: dict[str, Callable[[int, str], bool]] = {
    "list >&-": lambda code, said: (code, said) == (0, ""),
    "list algorithms >&- 2>&-": lambda code, said: (code, said) == (0, ""),
    "list 2>&-": lambda code, said: code == 0 and "gtadam" in said,
    "show ring --agents 4 --out r.png <&- >&- 2>&-": lambda code, said: (
        (code, said) == (0, "") and Path("r.png").exists()
    ),
    " ".join([*ASK, "--out", "o", "<&-", ">&-", "2>&-"]): lambda code, said: (
        (code, said) == (0, "") and len(one("o").rounds) == 20
    ),
    " ".join([*ASK, "--out", "p", ">&-"]): lambda code, said: (
        code == 0 and "unexpected" not in said and Path("p/summary.csv").exists()
    ),
    "list nothing 2>&-": lambda code, said: (code, said) == (2, ""),
    "list | head -n 1": lambda code, said: (code, said) == (0, "topologies\n"),
    " ".join([*ASK, "--out", "q", "2>/dev/null", "|", "true"]): lambda code, said: (
        (code, said) == (0, "") and Path("q/regret.png").exists()
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", list(CLOSED))
def test_closed_streams_and_readers_that_leave(command: str) -> None:
    code, said = run(f"set -o pipefail; {sys.executable} -m distopt {command}")
    assert CLOSED[command](code, said), (code, said)
