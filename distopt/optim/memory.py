"""What the hook remembers of each parameter, and what a saved memory must be to be loaded."""

import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distopt.channels.error_feedback import ErrorMemory
from distopt.errors import InputError

_SAVED = {"step", "bytes_sent", "kept", "compressor", "rank", "order"}
_EACH = {"number", "error", "warm", "shape"}
_LATER = {"compressor", "rank", "order", "shape"}  # absent from states that older versions saved


class Kept:
    """One parameter's memory: its number in order of first appearance, and that of its channel, leaves [1, 1, *]."""

    def __init__(self, number: int, memory: ErrorMemory) -> None:
        self.number, self.memory = number, memory


def saved(memory: ErrorMemory) -> dict[str, Any]:
    """A channel's memory as it is saved: the error [1, d], and the start of the next encoding [1, *] or None."""
    return {"error": memory.e[0], "warm": memory.warm[0] if isinstance(memory.warm, Tensor) else None}


def loaded(
    content: Any, model: torch.nn.Module, compressor: Any, described: str, here: list[int] | None
) -> tuple[int, int, dict[Tensor, Kept]]:
    """The step, the bytes sent and the memory by parameter that ``ErrorFeedbackState.state_dict`` gave.

    ``described`` is the compressor as text, and ``here`` this rank and how many there are, or None.

    Raises:
        InputError: what does not fit the model, the compressor or the rank, or is no saved memory at all.
    """
    parameters, whose = dict(model.named_parameters()), "what load_state_dict was given is not what state_dict gave"
    if not isinstance(content, Mapping) or content.keys() not in (_SAVED, _SAVED - _LATER):
        has = ", ".join(map(_told, content)) if isinstance(content, Mapping) else _told(content)
        raise InputError(f"{whose}: it has {has or 'nothing'}, not {', '.join(map(repr, sorted(_SAVED)))}")
    full, kept = "order" in content, content["kept"]
    for name in ("step", "bytes_sent"):
        if not counts(content[name]):
            raise InputError(f"{whose}: {name} is {_told(content[name])}, not a whole number, 0 or more")
    if full:
        _same(content["compressor"], content["rank"], described, here, whose)
    if not isinstance(kept, Mapping):
        raise InputError(f"{whose}: kept is {_told(kept)}, not a memory for each parameter")
    found: dict[Tensor, Kept] = {}
    for name, each in kept.items():
        if name not in parameters:
            whom = name if isinstance(name, str) else _told(name)
            raise InputError(
                f"the saved memory belongs to another model: it has {whom}, and this model has no such parameter"
            )
        if not isinstance(each, Mapping) or each.keys() != (_EACH if full else _EACH - _LATER):
            raise InputError(f"{whose}: for {name} it has {_told(each)}, not {', '.join(map(repr, sorted(_EACH)))}")
        if not counts(each["number"]):
            raise InputError(f"{whose}: the number of {name} is {_told(each['number'])}, not a whole number, 0 or more")
        found[parameters[name]] = _one(name, parameters[name], each, compressor, whose)
    places = {name: int(each["number"]) for name, each in kept.items()}
    if sorted(places.values()) != list(range(len(places))):
        raise InputError(
            f"{whose}: its {len(places)} parameters do not have the numbers 0 to {len(places) - 1}, each once"
        )
    if full and not _equal(content["order"], sorted(places, key=lambda name: places[name])):
        raise InputError(f"{whose}: order does not list the numbers of the saved parameters")
    return int(content["step"]), int(content["bytes_sent"]), found


def _one(name: str, parameter: Tensor, each: Mapping[str, Any], compressor: Any, whose: str) -> Kept:
    """The memory of one parameter; refused if it does not fit."""
    if parameter.is_meta:
        raise InputError(
            f"parameter {name} is on the device meta; load the hook's memory after the parameters are on a real device"
        )
    if "shape" in each and not _equal(each["shape"], list(parameter.shape)):
        raise InputError(
            f"the saved memory belongs to another model: {name} has the shape {list(parameter.shape)} here, not {_told(each['shape'])}"
        )
    d, dtype = parameter.numel(), precision(parameter)
    warm = started(compressor, d, dtype)
    for what, leaf, like in (
        ("error", each["error"], torch.empty(1, d, dtype=dtype, device="cpu")),
        ("warm start", each["warm"], warm),
    ):
        if leaf is None and like is None:
            continue
        if what == "warm start" and (leaf is None or like is None):
            raise InputError(
                f"the memory was saved with another compressor: for {name} it has {_told(leaf)} as {what}, not {_told(like)}"
            )
        if not isinstance(leaf, Tensor) or leaf.layout != torch.strided or leaf.is_meta or leaf.is_quantized:
            raise InputError(f"{whose}: the {what} of {name} is {_told(leaf)}, not a tensor of numbers")
        if what == "error" and leaf.numel() != d:
            raise InputError(
                f"the saved memory belongs to another model: {name} has {d} numbers here, not {leaf.numel()}"
            )
        assert like is not None
        if leaf.shape != like.shape or leaf.dtype != like.dtype:
            other = "model or compressor" if what == "error" else "compressor"
            raise InputError(
                f"the memory was saved with another {other}: for {name} it has {_told(leaf)} as {what}, not {_told(like)}"
            )
        if not bool(torch.isfinite(leaf).all()):
            raise InputError(f"{whose}: the {what} of {name} is not finite (nan or inf)")
    moved: list[Any] = [
        () if leaf is None else leaf.detach().to(parameter.device).clone().unsqueeze(0)
        for leaf in (each["error"], each["warm"])
    ]
    return Kept(int(each["number"]), ErrorMemory(*moved))


def _same(compressor: Any, rank: Any, described: str, here: list[int] | None, whose: str) -> None:
    """Refuse what was saved with another compressor, or on another rank."""
    if not isinstance(compressor, str):
        raise InputError(f"{whose}: compressor is {_told(compressor)}, not a text")
    if rank is not None and not (
        isinstance(rank, list) and len(rank) == 2 and all(map(counts, rank)) and rank[0] < rank[1]
    ):
        raise InputError(f"{whose}: rank is {_told(rank)}, not a rank and how many there are")
    if compressor != described:
        raise InputError(f"the memory was saved with another compressor: {compressor}, but this one is {described}")
    if rank is not None and here is not None and rank != here:
        raise InputError(
            f"the memory was saved on rank {rank[0]} of {rank[1]}, but this is rank {here[0]} of {here[1]}: each rank needs its own; "
            "with another number of ranks, use a new ErrorFeedbackState"
        )


def bare(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside DDP, whose names a saved state has."""
    inner = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    if not isinstance(inner, torch.nn.Module):
        raise InputError(f"model is a {type(model).__name__}; give the model that the hook works on")
    return inner


def precision(gradient: Tensor) -> torch.dtype:
    """The precision of the memory. Half precision loses too much, so single precision takes its place."""
    return torch.float32 if gradient.element_size() < 4 else gradient.dtype


def started(compressor: Any, d: int, dtype: torch.dtype) -> Tensor | None:
    """The start [1, *] of the first encoding of d numbers, or None if the compressor needs none."""
    if not d or compressor.start is None:
        return None
    with torch.device("cpu"):
        start: Tensor = compressor.start(d, dtype).expand(1, -1)
    return start


def counts(value: Any) -> bool:
    """Whether a value is a whole number from 0 to what an index may be."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**62


def _equal(value: Any, like: list[Any]) -> bool:
    """Whether a value is this list of numbers or texts."""
    return isinstance(value, list) and list(map(type, value)) == list(map(type, like)) and value == like


def _told(value: Any) -> str:
    """A value in few words."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(repr, value)) or 'nothing'}"[:200]
    text = (
        " ".join(repr(value).split())
        if isinstance(value, bool | int | float | str | list | None)
        else f"a {type(value).__name__}"
    )
    return text if len(text) <= 60 else text[:57] + "..."
