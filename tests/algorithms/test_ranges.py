"""Every parameter of every part with values outside its documented range, which construction refuses in that part's name, and at its inner edge."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from distopt.algorithms.gt import GT
from distopt.catalog import registry
from distopt.compressors.sign import Sign
from distopt.directions.momentum import Momentum
from distopt.errors import InputError

TEXTS = ["x", "", "1", b"1"]
NO_NUMBERS = [*TEXTS, None, True, [0.5], (0.5,), {}, 0.5j, np.array([0.5, 0.5]), Sign(), math.nan, math.inf, -math.inf]
HUGE = 10**400


class Range(NamedTuple):
    """What a parameter refuses, and what it takes at the edge of its range."""

    bad: list[Any]
    good: list[Any]


def column(*values: float) -> torch.Tensor:
    """A number for each trial."""
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)


def tensors(good: float, *bad: float) -> list[Any]:
    """A number per trial, one of which is wrong, and tensors of what is no number."""
    return [
        *(column(good, each, good) for each in (*bad, math.nan, math.inf)),
        torch.tensor([True]),
        torch.tensor([0.5 + 1j]),
        torch.empty(0),
    ]


def without(refused: list[Any], *taken: Any) -> list[Any]:
    return [each for each in refused if not any(each is one for one in taken)]


POSITIVE = Range(
    [-1, 0, -0.0, -1e-300, *tensors(0.1, 0.0, -1.0), *NO_NUMBERS, HUGE],
    [1e-50, 1, 2.5, np.float32(0.1), np.int64(1), column(0.1, 1e-50)],
)
NOT_NEGATIVE = Range(
    [-1, -1e-300, *tensors(0.1, -1.0), *NO_NUMBERS, HUGE], [0, -0.0, 1e-50, 2.5, np.float32(0.1), column(0.0, 1e-50)]
)
OPTIONAL_POSITIVE = Range(without(POSITIVE.bad, None), [None, *POSITIVE.good])
FRACTION = Range(
    [-1e-50, 1, 1.0, 2, *tensors(0.1, 1.0, -0.1), *NO_NUMBERS], [0, 0.0, 0.99999999, np.float64(0.5), column(0.0, 0.9)]
)
INSIDE = Range(
    [-1e-50, 0, -0.0, 1, 1.0, 2, *tensors(0.1, 0.0, 1.0), *NO_NUMBERS],
    [1e-50, 0.99999999, np.float64(0.5), column(0.1, 0.9)],
)
FROM_ONE = Range([-1, 0, 0.9999999, *tensors(1.5, 0.5), *NO_NUMBERS, HUGE], [1, 1.0, 2.5, column(1.0, 3.0)])
OPTIONAL_FRACTION = Range(without(FRACTION.bad, None), [None, *FRACTION.good])
SHARE = Range(
    [-1, 0, 0.0, 1.0000001, 5, *tensors(0.1, 0.0, 1.5), *NO_NUMBERS], [1e-50, 1, 1.0, np.float64(0.5), column(0.1, 1.0)]
)
BETWEEN_1_AND_2 = Range(
    [-1, 0, 1, 2, 2.5, *tensors(1.5, 1.0, 2.0), *NO_NUMBERS], [1.0001, 1.999, np.float64(1.5), column(1.2, 1.9)]
)
OPTIONAL_SHARE = Range(without(SHARE.bad, None), [None, *SHARE.good])
FLAG = Range(["false", "", 0, 1, None, 0.0, [], math.nan, torch.tensor(True)], [True, False])
COMPRESSOR = Range(["sign", None, 3, Sign, Momentum(), object(), math.nan], [Sign()])
ALGORITHM = Range(["gtadam", None, 3, GT, Sign(), Momentum(), object(), math.nan], [GT()])
DIRECTION = Range(["adam", None, 3, Momentum, Sign(), object(), math.nan], [Momentum()])


def whole(least: int, most: int | None = None) -> Range:
    over = [] if most is None else [most + 1, HUGE]
    return Range(
        [least - 1, -5, least + 0.5, float(least), column(least), *over, *NO_NUMBERS],
        [least, np.int64(least), most or 10**9],
    )


def texts(*options: str) -> Range:
    return Range(
        [
            options[0].upper(),
            "x",
            "",
            None,
            3,
            [options[0]],
            {},
            np.array(options),
            torch.ones(2),
            math.nan,
            True,
            object(),
        ],
        list(options),
    )


FORM = texts("cta", "atc")
SEGMENTS = Range(
    ["x", "0", "3+0", "3+", "+3", "3 4", "-3", "3.5", "1_0", "٣", "３", None, 3, ["3"], math.nan, object()],
    ["", "3", "784+10"],
)
SUPERADAM = {"k": POSITIVE, "m": POSITIVE, "c": POSITIVE, "beta": FRACTION, "lam": POSITIVE}

RANGES: dict[str, dict[str, dict[str, Range]]] = {
    "algorithms": {
        **{name: {"lr": POSITIVE} for name in ("extra", "nids", "exact_diffusion")},
        "dgd": {"lr": POSITIVE, "form": texts("cta", "atc"), "direction": DIRECTION},
        "gt": {"lr": POSITIVE, "form": FORM, "direction": DIRECTION},
        "alternating": {"lr": POSITIVE, "critic": whole(1, 1000), "form": FORM, "direction": DIRECTION},
        "aug_dgm": {"lr": POSITIVE, "direction": DIRECTION},
        "gt_storm": {"lr": POSITIVE, "form": FORM, **SUPERADAM, "adaptive": FLAG, "tracking": FLAG},
        "storm": {"lr": POSITIVE, "form": FORM, **SUPERADAM, "adaptive": FLAG},
        "domd": {"lr": POSITIVE, "geometry": texts("euclidean", "entropy", "pnorm"), "p": BETWEEN_1_AND_2},
        "online_frank_wolfe": {"lr": SHARE, "radius": POSITIVE},
        "ader": {"lr": POSITIVE, "experts": whole(1, 64), "eps": POSITIVE, "tracking": FLAG},
        "bandit": {
            "algorithm": ALGORITHM,
            "form": texts("two_point", "one_point", "residual"),
            "delta": POSITIVE,
        },
        "prediction_correction": {
            "lr": POSITIVE,
            "steps": whole(0, 1000),
            "order": whole(1, 2),
            "direction": DIRECTION,
        },
        "averaged": {"algorithm": ALGORITHM, "start": whole(0, 2**53), "every": whole(1, 2**53)},
        "lanczos_rate": {"lr": POSITIVE, "steps": whole(2, 100), "low": INSIDE, "width": POSITIVE},
        "ab": {"lr": POSITIVE, "form": FORM, "direction": DIRECTION},
        **{name: {"lr": POSITIVE} for name in ("push_diging", "robust_push_diging", "subgradient_push")},
        "push_sum_sgd": {"lr": POSITIVE, "direction": DIRECTION},
        "gt_saga": {"lr": POSITIVE, "batch": whole(1, 2**24), "form": FORM, "direction": DIRECTION},
        "gt_sarah": {
            "lr": POSITIVE,
            "batch": whole(1, 2**24),
            "period": whole(1, 2**24),
            "form": FORM,
            "direction": DIRECTION,
        },
        "gt_vr": {"lr": POSITIVE, "batch": whole(1, 2**24), "p": SHARE, "form": FORM, "direction": DIRECTION},
        "robust_lt_admm": {"lr": POSITIVE, "local": whole(1, 1000), "dual": POSITIVE},
        "lt_admm": {"lr": POSITIVE, "local": whole(1, 1000), "dual": POSITIVE, "relaxation": SHARE},
        "admm": {"lr": POSITIVE, "rho": POSITIVE, "local": whole(1, 1000), "relaxation": SHARE},
        "dlm": {"lr": POSITIVE, "rho": POSITIVE},
        "atg": {"lr": POSITIVE, "rho": POSITIVE, "gamma": SHARE, "relaxation": SHARE, "direction": DIRECTION},
        "led": {"lr": POSITIVE, "local": whole(1, 1000), "dual": POSITIVE},
        "prox_skip": {"lr": POSITIVE, "p": SHARE, "chi": FROM_ONE},
        "k_gt": {
            "lr": POSITIVE,
            "local": whole(1, 1000),
            "server": POSITIVE,
            "direction": DIRECTION,
            "correction": FLAG,
        },
        "gtadam": {
            "lr": POSITIVE,
            "b1": FRACTION,
            "b2": FRACTION,
            "eps": POSITIVE,
            "cap": OPTIONAL_POSITIVE,
            "form": FORM,
        },
        "dadam": {
            "lr": POSITIVE,
            "b1": FRACTION,
            "b2": FRACTION,
            "eps": POSITIVE,
            "cap": OPTIONAL_POSITIVE,
            "b3": OPTIONAL_FRACTION,
            "form": texts("cta", "atc"),
        },
        **{
            name: {"lr": POSITIVE, "compressor": COMPRESSOR, "gamma": SHARE}
            for name in ("choco_sgd", "beer", "deepsqueeze")
        },
        "c_gt": {"lr": POSITIVE, "compressor": COMPRESSOR, "gamma": SHARE, "alpha": SHARE, "direction": DIRECTION},
        **{
            name: {"lr": POSITIVE, "compressor": COMPRESSOR, "gamma": POSITIVE, "alpha": SHARE}
            for name in ("lead", "cedas")
        },
        "ef21": {"lr": POSITIVE, "compressor": COMPRESSOR},
        "ef_sgd": {"lr": POSITIVE, "compressor": COMPRESSOR, "direction": DIRECTION},
        "ef_signsgd": {"lr": POSITIVE, "segments": SEGMENTS},
        "signsgd": {"lr": POSITIVE, "vote": FLAG, "compressor": COMPRESSOR, "direction": DIRECTION},
        "signum": {"lr": POSITIVE, "b": FRACTION, "vote": FLAG},
        "powergossip": {"lr": POSITIVE, "rank": whole(1), "rows": whole(0), "gamma": SHARE},
    },
    "directions": {
        "sgd": {},
        "momentum": {"b": FRACTION},
        "nesterov": {"b": FRACTION},
        "adam": {
            "b1": FRACTION,
            "b2": FRACTION,
            "eps": POSITIVE,
            "eps_inside": FLAG,
            "cap": OPTIONAL_POSITIVE,
            "bias_correction": FLAG,
        },
        "amsgrad": {
            "b1": FRACTION,
            "b2": FRACTION,
            "b3": FRACTION,
            "eps": POSITIVE,
            "eps_inside": FLAG,
            "cap": OPTIONAL_POSITIVE,
            "bias_correction": FLAG,
        },
        "adamw": {"b1": FRACTION, "b2": FRACTION, "eps": POSITIVE, "decay": NOT_NEGATIVE},
        "aida": {
            "p": POSITIVE,
            "q": POSITIVE,
            "b1": FRACTION,
            "b2": FRACTION,
            "eps": POSITIVE,
            "eps_inside": FLAG,
            "decay": NOT_NEGATIVE,
        },
        "padam": {
            "p": POSITIVE,
            "b1": FRACTION,
            "b2": FRACTION,
            "eps": POSITIVE,
            "amsgrad": FLAG,
            "decay": NOT_NEGATIVE,
        },
        "superadam": SUPERADAM,
        "adan": {
            "b1": FRACTION,
            "b2": FRACTION,
            "b3": FRACTION,
            "eps": POSITIVE,
            "decay": NOT_NEGATIVE,
            "proximal": FLAG,
            "clip": OPTIONAL_POSITIVE,
        },
        "theopoula": {"eps": POSITIVE, "eta": NOT_NEGATIVE, "r": whole(1, 100), "beta": OPTIONAL_POSITIVE},
        "diffgrad": {"b1": FRACTION, "b2": FRACTION, "eps": POSITIVE},
        **{name: {"b1": INSIDE, "b2": FRACTION, "eps": POSITIVE} for name in ("adabelief", "acprop")},
        "adashift": {
            "n": whole(1, 100),
            "b1": FRACTION,
            "b2": FRACTION,
            "eps": POSITIVE,
            "phi": texts("max", "identity"),
        },
        "losing_momentum": {
            "alpha": POSITIVE,
            "m0": NOT_NEGATIVE,
            "T": POSITIVE,
            "decay": texts("exponential", "constant", "inverse"),
            "p": POSITIVE,
        },
        "proximal": {},
        "inna": {"alpha": NOT_NEGATIVE, "beta": POSITIVE},
        "rpgd": {
            "gradient": texts("old", "new", "fresh"),
            "tangential": FLAG,
            "hold": whole(0, 2**53),
            "ratio": NOT_NEGATIVE,
        },
        "weight_normalisation": {"length": POSITIVE, "ratio": NOT_NEGATIVE},
    },
    "channels": {
        "exact": {},
        "naive": {"compressor": COMPRESSOR},
        "error_feedback": {"compressor": COMPRESSOR, "gamma": OPTIONAL_SHARE},
        "choco": {
            "compressor": COMPRESSOR,
            "gamma": OPTIONAL_SHARE,
            "alpha": SHARE,
            "order": texts("new", "old"),
            "resync": whole(0, 2**24),
        },
        "running_sums": {},
        "comm": {"compressor": COMPRESSOR, "gamma": SHARE, "alpha": SHARE},
        "powergossip": {"rank": whole(1), "rows": whole(0), "gamma": SHARE},
    },
    "compressors": {
        "identity": {},
        "natural": {},
        "cast": {"to": texts("fp16", "bf16")},
        "dither": {"precision": whole(2, 16), "block": whole(1)},
        "lowrank": {"rank": whole(1), "rows": whole(0)},
        "qsgd": {"levels": whole(1, 2**24), "contraction": FLAG},
        "randomk": {"k": whole(0), "fraction": SHARE, "unbiased": FLAG},
        "sign": {"segments": SEGMENTS},
        "topk": {"k": whole(0), "fraction": SHARE},
        "unscaled_sign": {"zero": texts("plus", "minus")},
    },
}


def make(kind: str, name: str) -> Callable[..., Any]:
    """The part's maker, with a compressor where it needs one."""
    maker = registry.maker(kind, name)
    needed = [key for key, each in inspect.signature(maker).parameters.items() if each.default is each.empty]
    return lambda **given: maker(**{**{key: Sign() for key in needed}, **given})


PARAMETERS = [
    (kind, name, parameter) for kind, parts in RANGES.items() for name, ranges in parts.items() for parameter in ranges
]


@pytest.mark.parametrize("kind", RANGES)
def test_the_table_has_every_parameter_of_every_part(kind: str) -> None:
    for name in registry.names(kind):
        assert set(inspect.signature(registry.maker(kind, name)).parameters) == set(RANGES[kind][name]), name
    assert set(RANGES[kind]) == set(registry.names(kind))


@pytest.mark.parametrize(("kind", "name", "parameter"), PARAMETERS)
def test_what_is_outside_is_refused_in_the_name_that_the_user_wrote(kind: str, name: str, parameter: str) -> None:
    bad, good = RANGES[kind][name][parameter]
    for value in good:
        make(kind, name)(**{parameter: value})
    for value in bad:
        with pytest.raises(InputError, match=rf"^{name}: {parameter} ") as caught:
            make(kind, name)(**{parameter: value})
        message = str(caught.value)
        assert "\n" not in message and len(message) < 200, message


@pytest.mark.parametrize(("kind", "name", "parameter"), PARAMETERS)
def test_a_spec_is_refused_like_a_call(kind: str, name: str, parameter: str) -> None:
    needed = (
        "compressor=sign,"
        if kind == "channels" and parameter != "compressor" and "compressor" in RANGES[kind][name]
        else ""
    )
    plain = [
        each
        for each in RANGES[kind][name][parameter].bad
        if isinstance(each, float | int) and not isinstance(each, bool)
    ]
    spelled = not any(
        RANGES[kind][name][parameter] is each for each in (FLAG, SEGMENTS)
    )  # 0 and 1 spell truth values, and 3 a size
    for value in [each for each in plain if spelled and abs(each) < 1e9]:
        with pytest.raises(
            InputError,
            match=rf"{name}: {parameter}|among the (algorithms|compressors|directions)|{parameter}=.* is not ",
        ):
            registry.make(kind, f"{name}:{needed}{parameter}={value}")


def test_every_part_that_documents_what_it_raises_has_a_range() -> None:
    for kind, parts in RANGES.items():
        for name, ranges in parts.items():
            documented = "Raises:" in (inspect.getdoc(registry.maker(kind, name)) or "")
            assert not documented or ranges, name


def test_a_number_among_many_is_told() -> None:
    gt = registry.maker("algorithms", "gt")
    with pytest.raises(InputError, match=r"^gt: lr must be positive, got -2.0 in a tensor$"):
        gt(lr=column(0.1, -2.0, 0.3))


def test_ranges_need_no_module_of_numpy() -> None:
    assert not hasattr(importlib.import_module("distopt.ranges"), "np")
