"""Checkpoints: the carry of one run in a file. The run resumes from it with the same bits, on any engine and any number of workers.

The file is a line that names it, the length of a header, the header (JSON), the leaves of the carry one after the other, and the
SHA-256 of all that. It is written beside and renamed, and nothing in it is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from distopt import codegen
from distopt._version import __version__
from distopt.catalog.spec import shown
from distopt.errors import InputError, either
from distopt.metrics import RENAMED, Metric
from distopt.numerics.trees import tensors
from distopt.runs.files import written
from distopt.runs.manifest import CHECKPOINT
from distopt.runs.reading import parsed, regular
from distopt.simulation.problem import Problem
from distopt.simulation.round import AgentState, begun, standing
from distopt.simulation.runner import Carry

FORMAT = 1
DTYPES = {
    str(each).removeprefix("torch."): each
    for each in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.complex128,
    )
}
"""What a leaf's numbers may be, by the names that a header has."""

HEADER_BYTES, DIGEST = 2**24, 32
MAGIC = b"distopt checkpoint\n"
LENGTH = struct.Struct("<Q")  # length of the header


@dataclass(frozen=True)
class About:
    """The run that a carry belongs to, and everything else that decides the bits of its later rounds.

    ``run`` is the ``id`` of the results beside the checkpoint; ``compiled`` and ``device`` say how the rounds ran; ``seconds``
    what they have taken.
    """

    fingerprint: str
    run: str
    compiled: bool
    device: str
    seconds: float
    versions: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A carry read from a file, with its description."""

    carry: Carry
    about: About


def versions(compiled: bool) -> dict[str, str]:
    """Versions of the software that decides the bits."""
    return {"distopt": __version__, "torch": str(torch.__version__), **({"codegen": codegen.BITS} if compiled else {})}


def save(folder: Path, problem: Problem, carry: Carry, about: About) -> None:
    """Write the checkpoint of the run in ``folder``; an earlier one stays until this one is whole.

    Raises:
        InputError: the state or a channel's memory holds more than tensors and numbers, or has neither its form at the
            beginning nor its form after the first round.
        RunError: it cannot be written.
    """
    held = carry.held
    memory = list(held.memory)
    known = _forms(problem, memory)
    if pytree.tree_structure(held) != pytree.tree_structure(known[0]):
        raise InputError(
            f"{_of(problem)}: the algorithm's state has another structure than init() returned, which no checkpoint can hold"
        )
    leaves = [*pytree.tree_leaves(held), *carry.totals.values()]
    forms: list[Any] = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor | bool | int | float | str | None):
            raise InputError(
                f"{_of(problem)}: the algorithm's state holds a {type(leaf).__name__}; a checkpoint can hold tensors and numbers"
            )
        forms.append(
            [list(leaf.shape), str(leaf.dtype).removeprefix("torch.")] if isinstance(leaf, Tensor) else {"value": leaf}
        )
    if not any(_alike(tree, forms[: len(leaves) - len(carry.totals)]) for tree in known):
        raise InputError(
            f"{_of(problem)}: the algorithm's state has other shapes or precisions than after its first round, which no checkpoint can hold"
        )
    header = {
        "format": FORMAT,
        "t": carry.t,
        "memory": memory,
        "totals": list(carry.totals),
        "diverged": sorted(carry.diverged.items()),
        "leaves": forms,
        **asdict(about),
    }
    text, digest = json.dumps(header).encode(), hashlib.sha256()
    with written(folder / CHECKPOINT) as file:
        pieces: list[bytes | Tensor] = [
            MAGIC,
            LENGTH.pack(len(text)),
            text,
            *(leaf for leaf in leaves if isinstance(leaf, Tensor)),
        ]
        for piece in pieces:
            raw = (
                piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
                if isinstance(piece, Tensor)
                else piece
            )
            digest.update(raw)
            file.write(raw)
        file.write(digest.digest())


def forced() -> str:
    """What to do about results of other files or another version."""
    return f"{either('--force', 'force=True')} continues anyway, with other bits"


def load(folder: Path, problem: Problem, run: str, force: bool = False) -> Checkpoint | None:
    """The checkpoint of the run in ``folder``; None where there is none that belongs to the results beside it.

    Args:
        folder: of one run.
        problem: the run's.
        run: the ``id`` of the results.
        force: take it even if another experiment or version of the program wrote it.

    Raises:
        InputError: it is damaged or foreign, or another experiment's or version's and not forced.
    """
    path = folder / CHECKPOINT
    if not os.path.lexists(path):
        return None
    header, data = _read(path, problem)
    about = About(**{name: header[name] for name in About.__dataclass_fields__})
    if about.run != run:  # left from results that have been replaced since
        return None
    if not force:
        if about.fingerprint != problem.experiment.fingerprint():
            raise InputError(f"{path}: another experiment's (fingerprint {about.fingerprint}); {forced()}")
        if about.compiled and "codegen" not in about.versions:
            raise InputError(
                f"{path}: torch compiled its rounds, and this version does not, so the bits would differ; start again, or {forced()}"
            )
        if about.versions != versions(about.compiled):
            theirs = ", ".join(f"{name} {version}" for name, version in about.versions.items())
            raise InputError(
                f"{path}: written by {theirs}, whose bits may differ; use these, or {either('--force', 'force=True')}"
            )
    if not _fits(problem, header):
        raise InputError(f"{path}: does not fit {_of(problem)}")
    leaves: list[Any] = []
    start = 0
    for each in header["leaves"]:
        if isinstance(each, dict):
            leaves.append(each["value"])
            continue
        stop = start + _bytes(each)
        leaves.append(data[start:stop].clone().view(DTYPES[each[1]]).reshape(each[0]))
        start = stop
    count = len(leaves) - len(header["totals"])
    held: AgentState = standing(problem, header["memory"], leaves[:count])
    totals = dict(zip(header["totals"], leaves[count:], strict=True))
    return Checkpoint(Carry(header["t"], held, totals, dict(header["diverged"])), about)


def _read(path: Path, problem: Problem) -> tuple[dict[str, Any], Tensor]:
    """The header, and the bytes of the leaves. No more is read than the largest checkpoint of the problem has."""
    again = "to start again, remove it"
    with regular(path) as (file, size):
        try:
            begin = file.read(len(MAGIC) + LENGTH.size)
            if not begin.startswith(MAGIC):
                raise InputError(f"{path}: not a checkpoint of distopt; {again}")
            length = LENGTH.unpack_from(begin, len(MAGIC))[0] if len(begin) == len(MAGIC) + LENGTH.size else size
            if length + len(begin) + DIGEST > size:
                raise InputError(f"{path}: damaged or cut short; {again}")
            if length > HEADER_BYTES or size - length > _most(problem):
                raise InputError(f"{path}: does not fit {_of(problem)}: it has {size:,} bytes")
            data = bytearray(begin + file.read(size - len(begin)))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
    if len(data) != size or hashlib.sha256(memoryview(data)[:-DIGEST]).digest() != data[-DIGEST:]:
        raise InputError(f"{path}: damaged or cut short (the checksum differs); {again}")
    text = data[len(begin) : len(begin) + length]
    header = parsed(path, bytes(text))
    if isinstance(header, dict):
        header.setdefault("diverged", [])  # earlier versions ended a run with its first trial that diverged
    if isinstance(header, dict) and (type(header.get("format")) is not int or header["format"] != FORMAT):
        raise InputError(
            f"{path}: written by another version of distopt (format {str(header.get('format'))[:20]}, not {FORMAT}); {again}"
        )
    if wrong := _wrong(header):
        raise InputError(f"{path}: not a checkpoint that distopt wrote ({wrong}); {again}")
    header["totals"] = [RENAMED.get(name, name) for name in header["totals"]]
    leaves = torch.frombuffer(data, dtype=torch.uint8)[len(begin) + length : -DIGEST]
    if sum(_bytes(each) for each in header["leaves"] if isinstance(each, list)) != len(leaves):
        raise InputError(f"{path}: not a checkpoint that distopt wrote (the sizes of its leaves differ); {again}")
    return header, leaves


def cumulative(problem: Problem) -> dict[str, Metric]:
    """The metrics whose sums are in a checkpoint; it may lack those that are optional."""
    return {name: each for name, each in problem.measured.items() if each.cumulative}


def _most(problem: Problem) -> int:
    """The most bytes of the leaves of a checkpoint: those at the beginning, or after one round if these are more."""
    trees = _forms(problem, list(problem.channels))
    sums = 8 * len(problem.x0) * (problem.agents + len(cumulative(problem)))
    return (
        len(MAGIC)
        + LENGTH.size
        + DIGEST
        + sums
        + max(sum(leaf.numel() * leaf.element_size() for leaf in tensors(tree)) for tree in trees)
    )


def _wrong(header: Any) -> str | None:
    """The first fault of a header that ``save`` cannot have written; None if there is none."""
    if not isinstance(header, dict) or header.keys() != {
        "format",
        "t",
        "memory",
        "totals",
        "diverged",
        "leaves",
        *About.__dataclass_fields__,
    }:
        return "its header has other entries"
    for name, kind in (
        ("fingerprint", str),
        ("run", str),
        ("compiled", bool),
        ("device", str),
        ("t", int),
        ("versions", dict),
    ):
        if type(header[name]) is not kind:
            return f"{name} cannot be {shown(header[name])}"
    if not all(isinstance(each, str) for each in header["versions"].values()):
        return "versions are no texts"
    seconds = header["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        return "seconds are none"
    for name in ("memory", "totals"):
        names = header[name]
        if (
            not isinstance(names, list)
            or not all(isinstance(each, str) for each in names)
            or len(set(names)) < len(names)
        ):
            return f"{name} are no names"
    pairs = header["diverged"]
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(each) is int and each >= 0 for each in pair)
        for pair in pairs
    ):
        return "diverged are no trials with their rounds"
    leaves = header["leaves"]
    if not isinstance(leaves, list) or not all(_form(each) for each in leaves) or len(leaves) < len(header["totals"]):
        return "leaves are no tensors and numbers"
    return None


def _form(each: Any) -> bool:
    """Whether an entry of the header describes a leaf: [shape, dtype] of a tensor, or a plain value."""
    if isinstance(each, dict):
        return each.keys() == {"value"} and isinstance(each["value"], bool | int | float | str | None)
    if not isinstance(each, list) or len(each) != 2 or not isinstance(each[0], list) or not isinstance(each[1], str):
        return False
    return each[1] in DTYPES and all(type(length) is int and length >= 0 for length in each[0])


def _bytes(form: list[Any]) -> int:
    return int(math.prod(form[0])) * DTYPES[form[1]].itemsize


def _fits(problem: Problem, header: dict[str, Any]) -> bool:
    """Whether the carry has the leaves that the problem's has, each of its shape and precision."""
    memory, totals, forms = header["memory"], header["totals"], header["leaves"]
    if not 0 < header["t"] < problem.rounds or not set(memory) <= problem.channels.keys():
        return False
    metrics = cumulative(problem)
    if not {name for name, each in metrics.items() if not each.optional} <= set(totals) <= metrics.keys():
        return False
    trials = len(problem.x0)
    if any(trial >= trials or at > header["t"] for trial, at in header["diverged"]):
        return False
    sums = [[[trials, problem.agents] if name == "agents" else [trials], "float64"] for name in totals]
    count = len(forms) - len(totals)
    if forms[count:] != sums:
        return False
    return any(_alike(tree, forms[:count]) for tree in _forms(problem, memory))


def _alike(tree: Any, forms: list[Any]) -> bool:
    leaves = pytree.tree_leaves(tree)
    return len(leaves) == len(forms) and all(map(_same, leaves, forms))


def _same(leaf: Any, form: Any) -> bool:
    """Whether an entry of the header fits a leaf: the shape and precision of a tensor, or the type of a value."""
    if isinstance(leaf, Tensor):
        return bool(form == [list(leaf.shape), str(leaf.dtype).removeprefix("torch.")])
    if isinstance(form, list):
        return False
    value = form["value"]
    return type(leaf) is type(value) or {type(leaf), type(value)} == {int, float}


def _forms(problem: Problem, memory: Sequence[str]) -> tuple[AgentState, AgentState]:
    """What all agents hold before the first round, and after it: a leaf may begin as a number. Only forms count."""
    started = begun(problem, memory)
    return started, AgentState(*problem.plan.after, started.memory)


def _of(problem: Problem) -> str:
    what = problem.experiment.algorithm
    return what if isinstance(what, str) else type(what).__name__
