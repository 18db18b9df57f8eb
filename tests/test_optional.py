"""Optional attributes: a user's object is given the defaults of its kind once, and stays what it is."""

import copy
import dataclasses
import enum
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import distopt
from distopt.algorithms.dgd import DGD
from distopt.catalog import registry
from distopt.channels.naive import Naive
from distopt.compressors.sign import Sign
from distopt.errors import InputError
from distopt.fingerprint import plain
from distopt.metrics import Metric, View
from distopt.optional import DEFAULTS, AlgorithmDefaults, ScenarioDefaults, completed, entry, users_class
from distopt.scenarios.quadratic import Quadratic


class Counting:
    """It counts, and has what it is given."""

    def __init__(self) -> None:
        self.count = 0

    def update(self) -> None:
        self.count += 1


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    lr: float = 0.1
    tracks: str = "s"


class Tupled(NamedTuple):
    lr: float = 0.1


class Delegating:
    """It asks another object for whatever it lacks."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


class Registering:
    known: list[str] = []  # noqa: RUF012  # the class's own list, on purpose

    def __init_subclass__(cls, needed: str, **arguments: Any) -> None:
        Registering.known.append(needed)


class Only:
    """There is one, whoever asks."""

    one: Any = None

    def __new__(cls) -> Any:
        cls.one = cls.one or super().__new__(cls)
        return cls.one


class Told:
    def __new__(cls, lr: float) -> Any:
        return super().__new__(cls)

    def __init__(self, lr: float) -> None:
        self.lr = lr


class Named:
    def __new__(cls, *, lr: float) -> Any:
        return super().__new__(cls)

    def __init__(self, *, lr: float) -> None:
        self.lr = lr

    def __getnewargs_ex__(self) -> Any:
        return (), {"lr": self.lr}


class Demanding(type):
    def __new__(cls, name: str, bases: Any, namespace: Any, *, tag: int) -> Any:
        return super().__new__(cls, name, bases, namespace)

    def __init__(cls, name: str, bases: Any, namespace: Any, *, tag: int) -> None:
        super().__init__(name, bases, namespace)


class Tagged(metaclass=Demanding, tag=1):
    lr = 0.1


class Listed(enum.Enum):
    FIRST = 1

    @property
    def lr(self) -> float:
        return 0.1


class Reduced:
    def __init__(self, lr: float) -> None:
        self.lr = lr

    def __reduce__(self) -> Any:
        return type(self), (self.lr,)


class Copied:
    lr = 0.1

    def __copy__(self) -> Any:
        return Copied()


class Kept(dict[str, float]):
    @property
    def lr(self) -> float:
        return self["lr"]


MADE: dict[str, Callable[[], Any]] = {
    "Only": Only,
    "Told": lambda: Told(0.1),
    "Named": lambda: Named(lr=0.1),
    "Tagged": Tagged,
    "Listed": lambda: Listed.FIRST,
    "Reduced": lambda: Reduced(0.1),
    "Copied": Copied,
    "Kept": lambda: Kept(lr=0.1),
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_an_object_is_given_all_that_it_lacks_and_its_class_stays_as_it_is(kind: str) -> None:
    it = completed(DEFAULTS[kind], Counting())
    for name in (name for name in vars(DEFAULTS[kind]) if name[0] != "_"):
        assert hasattr(it, name) and not hasattr(Counting, name), name
    assert isinstance(it, Counting) and type(it).__name__ == "Counting" and users_class(type(it)) is Counting


def test_what_an_object_counts_it_counts_itself() -> None:
    own = Counting()
    completed(AlgorithmDefaults, own).update()
    assert own.count == 1


@pytest.mark.parametrize("kind", ["algorithms", "compressors", "channels", "scenarios"])
def test_the_catalogue_lacks_nothing(kind: str) -> None:
    for name in registry.names(kind):
        given = {"compressor": "sign"} if kind == "channels" and "compressor" in registry.free(kind, name) else {}
        if name in ("stream",):  # it needs a file
            continue
        part = registry.make(kind, name + ("" if not given else ":compressor=sign"), {"agents": 4})
        assert completed(DEFAULTS[kind], part) is part, name


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("own", [Counting, Slotted, Tupled])
def test_copies_and_pickles_keep_the_defaults(own: Any, again: Callable[[Any], Any]) -> None:
    it = completed(AlgorithmDefaults, own())
    twin = again(it)
    assert type(twin) is type(it) and twin.weights == "doubly" and twin.output is None and twin is not it


@pytest.mark.parametrize("name", MADE)
def test_an_object_is_completed_however_it_was_made(name: str) -> None:
    own = MADE[name]()
    it = completed(AlgorithmDefaults, own)
    assert type(it).__name__ == name and isinstance(it, type(own)) and not hasattr(own, "weights")
    assert it.weights == copy.copy(it).weights == "doubly" and getattr(copy.copy(it), "lr", None) == getattr(
        own, "lr", None
    )
    if name != "Told":  # whose objects Python cannot pickle, since its __new__ wants an argument
        again = pickle.loads(pickle.dumps(it))
        assert (
            type(again) is type(it) and again.tracks is None and getattr(again, "lr", None) == getattr(own, "lr", None)
        )


def test_what_python_cannot_complete_is_refused_in_a_line() -> None:
    with pytest.raises(InputError, match="^function: .*; give an object of a class of your own$"):
        completed(AlgorithmDefaults, lambda: None)


def test_a_property_that_fails_is_not_replaced() -> None:
    class Failing:
        @property
        def weights(self) -> Any:
            return self.wieghts  # the slip of which the user should hear

    with pytest.raises(AttributeError, match="wieghts"):
        completed(AlgorithmDefaults, Failing())


@pytest.mark.parametrize(
    ("defaults", "name"),
    [(each, name) for each in (*DEFAULTS.values(), Metric) for name in vars(each) if name[0] != "_"],
)
@pytest.mark.parametrize("where", ["class", "object", "slot"])
def test_none_means_the_same_as_leaving_it_out(defaults: type, name: str, where: str) -> None:
    own: Any = type(
        "Own", (), {name: None} if where == "class" else {"__slots__": (name,)} if where == "slot" else {}
    )()
    if where != "class":
        setattr(own, name, None)
    it, bare = completed(defaults, own), completed(defaults, Counting())
    assert getattr(own, name) is None
    if callable(getattr(bare, name)):
        assert getattr(it, name).__func__ is vars(defaults)[name] and getattr(it, name).__self__ is it
    else:
        assert getattr(it, name) == getattr(bare, name)
    twin = copy.copy(it)
    assert (getattr(twin, name) is None) == (vars(defaults)[name] is None)


def test_a_field_that_was_none_can_be_set() -> None:
    own: Any = Counting()
    own.weights = None
    it = completed(AlgorithmDefaults, own)
    it.update()
    it.weights = "row"
    assert it.weights == "row" and (own.count, own.weights) == (1, "row")


def test_a_run_takes_none_for_what_was_left_out() -> None:
    class Known(Quadratic):
        comparator: Any = None
        length: Any = None

    class Half(Sign):
        words: Any = None
        shared: Any = None

    class Plain(DGD):
        weights: Any = None

    class Far:
        title = columns = finish = applies = None

        def term(self, view: View) -> Tensor:
            return view.x.abs().amax(-1)

    run = distopt.simulate(
        "ring", algorithm=Plain(0.1), scenario=Known(), channel=Naive(Half()), metrics=[Far()], agents=4, rounds=3
    )
    assert run.status == "done" and {"far", "dynamic_regret"} <= set(run.metrics)


def test_a_copy_is_a_copy() -> None:
    it = completed(AlgorithmDefaults, Counting())
    copy.copy(it).update()
    assert it.count == 0


def test_a_class_with_slots_keeps_its_values_and_can_be_replaced() -> None:
    it = completed(AlgorithmDefaults, Slotted(0.5))
    assert (it.lr, it.tracks, it.weights) == (0.5, "s", "doubly")
    assert dataclasses.replace(it, lr=0.7) == completed(AlgorithmDefaults, Slotted(0.7))


def test_an_object_that_asks_another_one_keeps_what_that_one_has() -> None:
    one, other = (
        completed(AlgorithmDefaults, Delegating(inner)) for inner in (Counting(), SimpleNamespace(output=len))
    )
    assert one.output is None and other.output is len and one.count == 0


def test_an_object_of_a_plain_namespace_is_completed() -> None:
    assert completed(AlgorithmDefaults, SimpleNamespace(tracks="s")).weights == "doubly"
    assert completed(AlgorithmDefaults, SimpleNamespace(tracks="s")).tracks == "s"


def test_a_class_that_wants_to_know_its_subclasses_hears_nothing() -> None:
    completed(ScenarioDefaults, Registering())
    assert Registering.known == []


def test_a_users_compressor_inside_a_channel_is_completed_and_keeps_its_fingerprint() -> None:
    class Half:
        def encode(self, z: Tensor, u: Tensor | None = None) -> Tensor:
            return z / 2

        def decode(self, payload: Tensor, d: int, dtype: torch.dtype, u: Tensor | None = None) -> Tensor:
            return payload

        def bits(self, d: int, itemsize: int) -> int:
            return 8 * itemsize * d

        def delta(self, d: int) -> None:
            return None

        omega = delta

    channel = Naive(Half())
    assert channel.words(4) == 0 and channel.shared is False and channel.compressor.start is None
    assert plain(channel.compressor) == plain(Half())
    ask: dict[str, Any] = {"agents": 4, "scenario": "quadratic:dim=2", "algorithm": "dgd", "rounds": 3}
    run = distopt.simulate("ring", channel=channel, **ask)
    assert run.status == "done"


def test_a_users_files_of_25_lines_need_not_say_what_they_lack(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "import torch\n"
        "class Plain:\n"
        '    channels = ("x",)\n'
        "    def init(self, x):\n"
        "        return torch.zeros_like(x)\n"
        "    def update(self, g, state, x, mix):\n"
        '        return mix("x", x) - 0.1 * g, state\n'
    )
    ask: dict[str, Any] = {"agents": 4, "scenario": "quadratic:dim=2", "rounds": 5, "record": "x"}
    mine = distopt.simulate("ring", algorithm=str(tmp_path / "plain.py"), **ask)
    known = distopt.simulate("ring", algorithm="dgd:lr=0.1", **ask)
    assert (mine["x"] == known["x"]).all()


def test_messages_name_parts_as_specs_do() -> None:
    class Mine:
        algorithm = registry.make("algorithms", "gt_saga")

    made = {
        "averaged(gt_saga)": registry.make("algorithms", "averaged(gt_saga(lr=0.1),start=3)"),
        "feasible(normalised(quadratic))": registry.make("scenarios", "feasible(normalised(quadratic))"),
        "adam": registry.make("directions", "adam"),
        "Mine(gt_saga)": completed(AlgorithmDefaults, Mine()),
        "str": "gt",
    }
    assert {name: entry(part) for name, part in made.items()} == {name: name for name in made}
    with pytest.raises(InputError, match="^bandit: gt_saga takes gradients of single rows"):
        registry.make("algorithms", "bandit(gt_saga)")
