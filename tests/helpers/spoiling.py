"""Random damage to the files of a run: manifests, texts, arrays and checkpoints."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
from helpers.mutation import NUMBERS, damage, mutate

from distopt.runs import checkpoint

JUNK: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    -(10**30),
    2**63,
    "",
    "x",
    "1",
    "../x",
    "/etc/passwd",
    "..",
    ".",
    "a\0b",
    "\x1b[31m",
    "é",
    [],
    [[]],
    {},
    {"a": 1},
    [None],
    [1],
    ["x"],
    "x" * 5000,
    ["x"] * 300,
)


def tree(rng: random.Random, value: Any) -> Any:
    """The JSON value with one node in it replaced, dropped, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        way = rng.random()
        if way < 0.12:
            return {k: v for k, v in value.items() if k != key}
        if way < 0.2:
            return {
                rng.choice(("x", "", "runs", "chunks", "label", "format")) if k == key else k: v
                for k, v in value.items()
            }
        return {**value, key: tree(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        k, way = rng.randrange(len(value)), rng.random()
        if way < 0.15:
            return value[:k] + value[k + 1 :]
        if way < 0.3:
            return [*value, value[k]]
        if way < 0.4:
            return rng.sample(value, len(value))
        return [*value[:k], tree(rng, value[k]), *value[k + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.3:
        return value + rng.choice((-1, 1, 2, 1000))
    return rng.choice(JUNK)


def text(rng: random.Random, data: bytes) -> bytes:
    """A JSON or TOML text, changed as text."""
    way = rng.random()
    if way < 0.3:
        return damage(rng, data)
    if way < 0.4:
        return rng.choice(
            (
                b"",
                b"{}",
                b"[]",
                b"null",
                b"1",
                b'"x"',
                b"\xff\xfe",
                b"{" * 100_000,
                b"[" * 100_000,
                b'{"a":' * 50_000,
                b"9" * 10_000,
                data.decode().encode("utf-16"),
                b"\xef\xbb\xbf" + data,
                data + data,
            )
        )
    return mutate(
        rng, data.decode(), (*NUMBERS, *'{}[],:"', "NaN", "null", "1e999", "\\u0000", "\\ud800", '"format":1,')
    ).encode("utf-8", "surrogatepass")


def arrays(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """An archive of arrays: damaged, another run's, or packed anew with something else in it."""
    way = rng.random()
    if way < 0.4:
        return damage(rng, data)
    if way < 0.5:
        return other
    with np.load(io.BytesIO(data)) as archive:
        held: dict[str, Any] = {name: archive[name] for name in archive.files}
    key = rng.choice(list(held))
    value = held[key]
    changes: list[Callable[[], Any]] = [
        lambda: value[..., :-1],
        lambda: value[:1],
        lambda: value.astype(np.float32),
        lambda: value.astype(np.int8),
        lambda: value.astype(str),
        lambda: value.astype(object),
        lambda: value[None],
        lambda: value.ravel()[0],
        lambda: value * np.nan if value.dtype.kind == "f" else value + 1,
        lambda: np.concatenate([value, value], -1),
        lambda: np.zeros(0),
        lambda: value.astype(complex),
        lambda: np.zeros(value.shape, dtype=[("a", "f8")]),
        lambda: value[..., ::-1],
        lambda: value.astype(">f8"),
        lambda: np.asfortranarray(value),
    ]
    if rng.random() < 0.6:
        held[key] = rng.choice(changes)()
    elif rng.random() < 0.5:
        del held[key]
    else:
        held[rng.choice(("m.x", "t.x", "m.", "rounds2", "x", "m.dynamic_regret/../y", "t.é"))] = held.pop(key)
    out = io.BytesIO()
    np.savez(out, **{name.replace("/", "_"): each for name, each in held.items()})
    raw = out.getvalue()
    if rng.random() < 0.15:  # claims of sizes that are not there
        raw = raw.replace(b"'shape': (", b"'shape': (9", 1)
    if rng.random() < 0.1:
        with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(
                rng.choice(("m.big.npy", "rounds.npy", "../x.npy", "notes")), b"\x93NUMPY" + b"\0" * 3_000_000
            )
        raw = out.getvalue()
    return raw


def carry(rng: random.Random, data: bytes) -> bytes:
    """A checkpoint: bytes flipped, or a header of its own under a check sum that is right."""
    if rng.random() < 0.25:
        return damage(rng, data)
    start = len(checkpoint.MAGIC)
    (size,) = struct.unpack("<Q", data[start : start + 8])
    header, rest = json.loads(data[start + 8 : start + 8 + size]), data[start + 8 + size : -32]
    way = rng.random()
    if way < 0.35 and header.get("leaves"):
        k = rng.randrange(len(header["leaves"]))
        names = (
            "float32",
            "float16",
            "int64",
            "int8",
            "bool",
            "complex64",
            "Tensor",
            "load",
            "nn",
            "__name__",
            "float8_e5m2",
            "quint8",
            "strided",
            "",
            "float64.x",
            1,
            None,
            ["float64"],
        )
        sizes = (
            [],
            [0],
            [-1],
            [1, 4, 2],
            [8],
            [1, 4, 3],
            [10**12],
            [2**63],
            [1.0, 4, 2],
            [True, 4, 2],
            ["1"],
            None,
            [[1]],
            [1] * 70,
        )
        new = rng.choice(
            (
                [rng.choice(sizes), "float64"],
                [header["leaves"][k][0] if isinstance(header["leaves"][k], list) else [], rng.choice(names)],
                {"value": rng.choice(JUNK)},
                {"value": 1.0},
                {},
                [],
                None,
                [[1, 4, 2]],
            )
        )
        header["leaves"][k] = new
    elif way < 0.5:
        header["t"] = rng.choice((0, -1, 1.5, 4.0, True, "4", None, 12, 13, 10**30, float("nan"), [4]))
    else:
        before = header["t"]
        header = tree(rng, header)
        if isinstance(header, dict) and header.get("t") != before:
            header["t"] = "t"  # another round in its place is as true as this one
    if rng.random() < 0.1:
        rest = rng.choice((rest + b"\0" * 8, rest[:-8], b"", rest + rest))
    raw = json.dumps(header).encode()
    if rng.random() < 0.05:
        raw = rng.choice((b"[" * 100_000, b"{}", b"\xff", b"nan", raw[:-1], b"9" * 10_000))
    length = len(raw) if rng.random() < 0.9 else rng.choice((0, 2**63, 2**64 - 1, len(raw) + 1, len(raw) - 1, 10**9))
    body = checkpoint.MAGIC + struct.pack("<Q", length) + raw + rest
    return body + sha256(body).digest()
