"""Weight matrices by the thousand: every precision and layout, matrices that do not mix, and damaged .npy files."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fuzzing import Kinds, Outcome, asked, hunt, hunts, retry, typed
from helpers.mutation import damage

import distopt
from distopt.network.topology import build_topology

TYPES = (
    "<f8",
    "<f8",
    "<f8",
    "<f4",
    "<f4",
    "<f2",
    ">f8",
    ">f4",
    "<i8",
    "|i1",
    "|u1",
    "|b1",
    "<c16",
    "<f16",
    "<U3",
    "|S3",
    "<M8[s]",
    "<m8[s]",
    "|O",
    "<u8",
)


def mixing(rng: random.Random, n: int) -> np.ndarray:
    """Weights of some kind: good ones, and such as do not lead to the average."""
    draw = np.random.default_rng(rng.getrandbits(63))
    eye, ring = np.eye(n), np.roll(np.eye(n), 1, 0)
    links = draw.random((n, n)) < 0.5
    links = (links | links.T | (ring > 0) | (ring.T > 0)) & (eye == 0)
    degree = links.sum(1)
    metropolis = np.where(links, 1 / (1 + np.maximum(degree[:, None], degree)), 0)
    metropolis += np.diag(1 - metropolis.sum(1))
    rows = draw.random((n, n))
    ways: list[Callable[[], np.ndarray]] = [
        lambda: metropolis,
        lambda: metropolis,
        lambda: np.full((n, n), 1 / n),
        lambda: rows / rows.sum(1, keepdims=True),
        lambda: links.astype(float),
        lambda: (links | (eye > 0)).astype(float),
        lambda: (ring + ring.T) / 2,
        lambda: ring,
        lambda: 3 * eye - ring - ring.T,
        lambda: eye * 0.5 + ring * 0.5,
        lambda: 2 * metropolis - eye,
        lambda: 3 * metropolis - 2 * eye,
        lambda: eye,
        lambda: -metropolis,
        lambda: metropolis * (1 + 1e-3),
        lambda: metropolis * (1 + 1e-6),
        lambda: metropolis * (1 + 1e-12),
        lambda: metropolis * 100,
        lambda: np.diag(degree) - links,
        lambda: links / np.maximum(degree, 1)[:, None],
        lambda: metropolis.round(3),
        lambda: metropolis.round(6),
        lambda: np.where(eye > 0, np.nan, metropolis),
        lambda: metropolis + 1e300 * ring - 1e300 * ring.T,
        lambda: np.where(ring > 0, np.inf, metropolis),
        lambda: np.zeros((n, n)),
        lambda: metropolis * links,
    ]
    return np.asarray(rng.choice(ways)(), dtype=np.float64)


def matrix(rng: random.Random) -> np.ndarray:
    """Weights in some type and shape."""
    n = rng.choice((1, 2, 3, 3, 4, 4, 5, 8, 13))
    W = mixing(rng, n)
    kind = rng.choice(TYPES) if rng.random() < 0.5 else rng.choice(("<f8", "<f4", "<f2"))
    way = rng.random()
    with np.errstate(all="ignore"):
        W = W.astype(kind)
    if way < 0.05:
        return W[: max(1, n - 1)]
    if way < 0.1:
        return W[None] if rng.random() < 0.5 else W.ravel()
    if way < 0.13:
        return np.zeros(n, dtype=[("w", "<f8", (n,)), ("name", "<U4")])
    if way < 0.2:
        return np.asfortranarray(W)
    if way < 0.23:
        return np.zeros((0, 0)) if rng.random() < 0.5 else np.array(1.0)
    return W


def crafted(rng: random.Random, data: bytes) -> bytes:
    """A .npy file whose header says something else."""
    size = struct.unpack("<H", data[8:10])[0]
    n = rng.choice((3, 10**6, 10**9, 10**12, -1, 2**63, 2**64, 10**30))
    shape = rng.choice(
        (
            f"({n}, {n})",
            f"({n},)",
            "(3, 3",
            "()",
            "(3, True)",
            "(3, 3.0)",
            "None",
            "(" * 2000 + "3" + ")" * 2000,
            "[3, 3]",
            "(3, 3), 'x': 1",
            "-" * 5000 + "3",
            "3" * 5000,
        )
    )
    descr = rng.choice(
        (
            "'<f8'",
            "'<f4'",
            "'|O'",
            "'|V8'",
            "'<f99'",
            "''",
            "[('a', '<f8')]",
            "[]",
            "'<U1000000000'",
            "1",
            "'f8,f8'",
            "'<M8'",
            "'O'",
            "__import__('os')",
            "'" + "f" * 3000 + "'",
        )
    )
    head = f"{{'descr': {descr}, 'fortran_order': {rng.choice(('False', 'True', '1', 'None'))}, 'shape': {shape}, }}\n".encode()
    version = rng.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    length = struct.pack("<H" if version[0] == 1 else "<I", min(rng.choice((len(head), len(head), 0, 65535)), 65535))
    return b"\x93NUMPY" + bytes(version) + length + head + data[10 + size :]


def packed(rng: random.Random, W: np.ndarray) -> bytes:
    out = io.BytesIO()
    if rng.random() < 0.1:
        np.savez(out, W=W) if rng.random() < 0.5 else np.savez(out, W, W)
    else:
        np.save(out, W, allow_pickle=True)
    return out.getvalue()


def unmixed(W: np.ndarray) -> bool:
    """Whether the powers of weights stay away from the average, or only creep to it for rounding."""
    values = np.linalg.eigvals(W - 1 / len(W))
    return bool(np.abs(values).max() > 1 - 1e-12)


def check(held: Any, W: np.ndarray, told: str) -> list[str]:
    """What is wrong with weights that were accepted: they are those of the file, sum to one, and mix, or a warning says that they do not."""
    faults = []
    if held.matrix is None:
        return ["are taken for a graph without weights"]
    got = np.zeros((held.agents, held.agents))
    rows, columns, values = held.matrix
    got[rows, columns] = values
    if W.dtype.kind not in "biuf" or got.shape != W.shape:
        return [f"takes {W.dtype} of shape {W.shape} for weights of shape {got.shape}"]
    if np.abs(got.sum(1) - 1).max() > 1e-9:
        faults.append(f"rows sum to one but for {np.abs(got.sum(1) - 1).max():.0e}")
    slack = {2: 1e-3, 4: 1e-6}.get(W.dtype.itemsize if W.dtype.kind == "f" else 8, 1e-8)
    if np.abs(got - W.astype(np.float64)).max() > slack * 4:
        faults.append("are other weights than those of the file")
    if held.agents > 1 and unmixed(got) and "eigenvalue" not in told:
        faults.append("do not mix, and nobody says so")
    return faults


def one(kind: str, rng: random.Random) -> tuple[Any, Outcome]:
    """A weight file, whole, damaged, or with a header of its own."""
    W = matrix(rng)
    data = packed(rng, W)
    if kind == "damaged weight files":
        data = damage(rng, data)
    elif kind == "crafted weight files":
        data = crafted(rng, data)
    name = rng.choice(("W.npy", "W.npy", "W.npy", "a b.npy", "ü.npy", "W.npz", "W.NPY"))
    path = Path(f"{rng.getrandbits(40):x}-{name}")
    path.write_bytes(data)
    spec, told = f"file:'{path}'", ""
    if rng.random() < 0.25:
        outcome = typed(
            "simulate",
            spec,
            "--scenario",
            "quadratic:dim=2",
            "--algorithm",
            "dgd:lr=0.001",
            "--rounds",
            "3",
            "--eager",
            "--out",
            f"{path}.run",
            names=(path.name, "dgd"),
        )
    else:
        outcome = asked(
            lambda: distopt.simulate(
                spec, scenario="quadratic:dim=2", algorithm="dgd:lr=0.001", rounds=3, mode="eager"
            ),
            names=(path.name, "dgd"),
        )
    if outcome.line is None and not outcome.faults:
        told = " ".join(outcome.told)
        if kind == "weight files":
            outcome.faults += check(build_topology(spec, None, 0), W, told)
        else:
            held = build_topology(spec, None, 0)
            got = np.zeros((held.agents, held.agents))
            if held.matrix is not None:
                got[held.matrix[0], held.matrix[1]] = held.matrix[2]
                if np.abs(got.sum(1) - 1).max() > 1e-9:
                    outcome.faults.append("rows do not sum to one")
                elif held.agents > 1 and unmixed(got) and "eigenvalue" not in told:
                    outcome.faults.append("do not mix, and nobody says so")
    elif (
        outcome.line is not None
        and kind == "weight files"
        and name.lower().endswith(".npy")
        and W.dtype.kind == "f"
        and W.ndim == 2
        and data[:6] == b"\x93NUMPY"
    ):
        exact = W.astype(np.float64)
        slack = {2: 2e-3, 4: 2e-6}.get(W.dtype.itemsize, 1e-9)
        good = (
            W.shape[0] == W.shape[1]
            and W.size
            and np.isfinite(exact).all()
            and (exact >= 0).all()
            and max(abs(exact.sum(0) - 1).max(), abs(exact.sum(1) - 1).max()) < slack / 4
        )
        if good and not unmixed(exact / exact.sum(1, keepdims=True)):
            outcome.faults.append("refuses good weights")
    return (
        path.name,
        W.dtype.str,
        W.tolist() if W.size < 30 else W.shape,
        data if len(data) < 2000 else len(data),
    ), outcome


KINDS: Kinds = {
    "weight files": (700, one),
    "damaged weight files": (300, one),
    "crafted weight files": (300, one),
}


def again(kind: str, number: int, seed: int) -> None:
    """Try one input again, as it was tried."""
    retry(KINDS, kind, number, seed)


@pytest.mark.parametrize("kind", hunts(KINDS))
@pytest.mark.usefixtures("own_folder", "no_figures")
def test_weights_sum_to_one_and_mix_or_somebody_says_so(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    hunt(KINDS, kind, "test_fuzz_weights", record_property)
