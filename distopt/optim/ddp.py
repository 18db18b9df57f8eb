"""Error-feedback compression of gradients in DistributedDataParallel: a communication hook for an existing training script."""

import atexit
import dataclasses
import numbers
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.futures import Future
from torch.utils import _pytree as pytree

from distopt.catalog import registry
from distopt.errors import InputError
from distopt.numerics.random import Key

dist: Any = torch.distributed  # which does not declare all that it exports

_SAVED = {"step", "bytes_sent", "kept", "compressor", "rank", "order"}
_EACH = {"number", "error", "warm", "shape"}
_LATER = {"compressor", "rank", "order", "shape"}  # what states did not have at first


class _Kept:
    """Of one parameter: its number in the order in which parameters first came, e [1, d], and where its next encoding starts from."""

    def __init__(self, number: int, error: Any, warm: Tensor | None) -> None:
        self.number, self.error, self.warm = number, error, warm


class ErrorFeedbackState:
    """What ``error_feedback_hook`` keeps: for each parameter what its messages have left out so far [karimireddy2019].

    With the gradient g_i of rank i, of n, for one parameter tensor of d numbers:

        z_i = g_i + e_i,    e_i <- z_i - C(z_i),    every rank's gradient becomes (1/n) sum_j C(z_j)

    The packed C(z_i) of all parameters of a bucket travel in one message (an all_gather), every rank decodes and adds them in the order
    of ranks, so replicas stay identical to the bit. Each parameter is compressed by itself, as in the paper's experiments, and its
    memory is its own whatever bucket it lies in: DDP forms new buckets after the first step.

    The memory is in units of gradients, where the paper's is in units of parameters (the step size multiplied in): under a
    constant step size they are the same; when it drops from a to b, the paper's corresponds to this one times a / b. Momentum
    and weight decay of the optimiser act after the hook, on the average, where the paper adds them before.

    Where a gradient is not finite, its message is not either, and shows; the memory is left as it was, so that a
    step which a gradient scaler skips does no harm.

    Args:
        compressor: a spec such as "sign" or "topk(fraction=0.01)" (``distopt list compressors``), or an object with its methods.
            One that loses nothing ("identity") goes through the all-reduce that DDP does without a hook, with the same bits.
        process_group: the ranks; None: all of them.
        start_iter: so many first steps are sent uncompressed, by DDP's own all-reduce.
        seed: of compressors that draw; what they draw is addressed by step, parameter and rank.

    Attributes:
        step: how many steps the hook has seen.
        bytes_sent: the bytes of this rank's messages so far, those of uncompressed steps included.

    Raises:
        InputError: no such compressor, a number of steps below 0, or a seed below 0.

    >>> state = ErrorFeedbackState(compressor="sign")
    >>> (state.step, state.bytes_sent)
    (0, 0)
    """

    def __init__(self, compressor: Any = "sign", process_group: Any = None, start_iter: int = 0, seed: int = 0) -> None:
        for name, value in (("start_iter", start_iter), ("seed", seed)):
            if not _counts(value):
                raise InputError(f"{name}={value!r}: must be a whole number, 0 or more")
        self.compressor = registry.make("compressors", compressor) if isinstance(compressor, str) else compressor
        if isinstance(self.compressor, type) or not all(
            hasattr(self.compressor, each) for each in ("encode", "decode", "delta")
        ):
            raise InputError(
                f'compressor={compressor!r}: must be a spec such as "sign", or an object with the methods of a compressor'
            )
        self.process_group, self.start_iter, self.seed = process_group, start_iter, seed
        self.step, self.bytes_sent = 0, 0
        self._kept: dict[Tensor, _Kept] = {}

    def state_dict(self, model: torch.nn.Module) -> dict[str, Any]:
        """What THIS rank must save to go on with the same bits, by the names of the model's parameters; ``torch.save`` takes it.

        The memory differs from rank to rank, so that each saves its own. The process group is not in it.

        Raises:
            InputError: the hook has worked on another model.
        """
        names: dict[Tensor, str] = {parameter: name for name, parameter in _bare(model).named_parameters()}
        if any(parameter not in names for parameter in self._kept):
            raise InputError(
                "the hook has worked on parameters that this model does not have; give state_dict the model that was trained with it"
            )
        kept = {
            names[parameter]: {
                "number": each.number,
                "error": each.error,
                "warm": each.warm,
                "shape": list(parameter.shape),
            }
            for parameter, each in self._kept.items()
        }
        order = sorted(kept, key=lambda name: kept[name]["number"])
        about = {"compressor": self._described(), "rank": self._rank(), "order": order}
        return {"step": self.step, "bytes_sent": self.bytes_sent, "kept": kept, **about}

    def load_state_dict(self, content: Mapping[str, Any], model: torch.nn.Module) -> None:
        """Go on from what ``state_dict`` gave. What is refused changes nothing.

        Raises:
            InputError: not what ``state_dict`` gave, or saved with another model, with another compressor or on another rank.
        """
        parameters, whose = (
            dict(_bare(model).named_parameters()),
            "what load_state_dict was given is not what state_dict gave",
        )
        if not isinstance(content, Mapping) or content.keys() not in (_SAVED, _SAVED - _LATER):
            has = ", ".join(map(_told, content)) if isinstance(content, Mapping) else _told(content)
            raise InputError(f"{whose}: it has {has or 'nothing'}, not {', '.join(map(repr, sorted(_SAVED)))}")
        full, kept = "order" in content, content["kept"]
        for name in ("step", "bytes_sent"):
            if not _counts(content[name]):
                raise InputError(f"{whose}: {name} is {_told(content[name])}, not a whole number, 0 or more")
        if full:
            self._same(content["compressor"], content["rank"], whose)
        if not isinstance(kept, Mapping):
            raise InputError(f"{whose}: kept is {_told(kept)}, not a memory for each parameter")
        found: dict[Tensor, _Kept] = {}
        for name, each in kept.items():
            if name not in parameters:
                whom = name if isinstance(name, str) else _told(name)
                raise InputError(
                    f"the saved memory is that of another model: for {whom} this one has no such parameter"
                )
            if not isinstance(each, Mapping) or each.keys() != (_EACH if full else _EACH - _LATER):
                raise InputError(f"{whose}: for {name} it has {_told(each)}, not {', '.join(map(repr, sorted(_EACH)))}")
            if not _counts(each["number"]):
                raise InputError(
                    f"{whose}: the number of {name} is {_told(each['number'])}, not a whole number, 0 or more"
                )
            found[parameters[name]] = self._loaded(name, parameters[name], each, whose)
        places = {name: int(each["number"]) for name, each in kept.items()}
        if sorted(places.values()) != list(range(len(places))):
            raise InputError(
                f"{whose}: its {len(places)} parameters do not have the numbers 0 to {len(places) - 1}, each once"
            )
        if full and not _equal(content["order"], sorted(places, key=lambda name: places[name])):
            raise InputError(f"{whose}: order does not name the parameters that it has a memory of, by their numbers")
        self.step, self.bytes_sent, self._kept = int(content["step"]), int(content["bytes_sent"]), found

    def _loaded(self, name: str, parameter: Tensor, each: Mapping[str, Any], whose: str) -> _Kept:
        """The memory of one parameter, where it fits."""
        if parameter.is_meta:
            raise InputError(
                f"parameter {name} is on the device meta; load the hook's memory when the model has its numbers"
            )
        if "shape" in each and not _equal(each["shape"], list(parameter.shape)):
            raise InputError(
                f"the saved memory is that of another model: for {name} this one has the shape {list(parameter.shape)}, not {_told(each['shape'])}"
            )
        d, dtype = parameter.numel(), _precision(parameter)
        warm = _started(self.compressor, d, dtype)
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
                    f"the saved memory is that of another model: for {name} this one has one of {d} numbers, not {leaf.numel()}"
                )
            assert like is not None
            if leaf.shape != like.shape or leaf.dtype != like.dtype:
                other = "model or compressor" if what == "error" else "compressor"
                raise InputError(
                    f"the memory was saved with another {other}: for {name} it has {_told(leaf)} as {what}, not {_told(like)}"
                )
            if not bool(torch.isfinite(leaf).all()):
                raise InputError(f"{whose}: the {what} of {name} is not finite (nan or inf)")
        moved = [
            None if leaf is None else leaf.detach().to(parameter.device).clone()
            for leaf in (each["error"], each["warm"])
        ]
        return _Kept(int(each["number"]), moved[0], moved[1])

    def _same(self, compressor: Any, rank: Any, whose: str) -> None:
        """Refuse what was saved with another compressor, or on another rank."""
        if not isinstance(compressor, str):
            raise InputError(f"{whose}: compressor is {_told(compressor)}, not a text")
        if rank is not None and not (
            isinstance(rank, list) and len(rank) == 2 and all(map(_counts, rank)) and rank[0] < rank[1]
        ):
            raise InputError(f"{whose}: rank is {_told(rank)}, not a rank and how many there are")
        if compressor != self._described():
            raise InputError(
                f"the memory was saved with another compressor: with {compressor}, and this one is {self._described()}"
            )
        here = self._rank()
        if rank is not None and here is not None and rank != here:
            raise InputError(
                f"the memory was saved on rank {rank[0]} of {rank[1]}, and this is rank {here[0]} of {here[1]}: each rank goes on from its own; "
                "of other ranks, begin with a new ErrorFeedbackState"
            )

    def _described(self) -> str:
        """The compressor with its parameters, and the seed of what it draws."""
        compressor = self.compressor
        if dataclasses.is_dataclass(compressor):
            names = [each.name for each in dataclasses.fields(compressor)]
        else:
            names = sorted(name for name in getattr(compressor, "__dict__", {}) if not name.startswith("_"))
        values = [(name, getattr(compressor, name)) for name in names]
        told = ", ".join(
            f"{name}={value!r}" for name, value in values if isinstance(value, bool | int | float | str | None)
        )
        return f"{type(compressor).__name__}({told})" + (
            f" of seed {self.seed}" if hasattr(compressor, "words") else ""
        )

    def _rank(self) -> list[int] | None:
        """Which rank this is, and of how many; None before there are any."""
        if not dist.is_available() or not dist.is_initialized():
            return None
        return [dist.get_rank(self.process_group), dist.get_world_size(self.process_group)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process_group": None}  # a group cannot be copied nor saved


def error_feedback_hook(state: ErrorFeedbackState, bucket: dist.GradBucket) -> Future[Tensor]:
    """The hook: ``model.register_comm_hook(ErrorFeedbackState(compressor="sign"), error_feedback_hook)`` (see ``ErrorFeedbackState``)."""
    group = state.process_group or dist.group.WORLD
    buffer: Tensor = bucket.buffer()
    pairs = [
        (p, g) for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True) if g.numel()
    ]  # of no numbers there is nothing to send
    step = state.step
    if bucket.is_last():
        state.step += 1
    if step < state.start_iter or all(state.compressor.delta(gradient.numel()) == 1 for _, gradient in pairs):
        state.bytes_sent += buffer.numel() * buffer.element_size()
        buffer.mul_(1 / dist.get_world_size(group))  # as DDP does it
        return _then(dist.all_reduce(buffer, group=group, async_op=True), lambda _: buffer, buffer)

    parts = [_Part(state, parameter, gradient, step, group) for parameter, gradient in pairs]
    payloads, forms = zip(*(pytree.tree_flatten(part.encoded()) for part in parts), strict=True)
    leaves = [leaf for payload in payloads for leaf in payload]
    message = _joined(leaves)
    state.bytes_sent += message.numel()
    arrived = [torch.empty_like(message) for _ in range(dist.get_world_size(group))]

    def averaged(_: Any) -> Tensor:
        messages = [_parted(each, leaves) for each in arrived]
        first = 0
        for part, form, payload in zip(parts, forms, payloads, strict=True):
            span = slice(first, first := first + len(payload))
            total = torch.zeros(1, part.d, dtype=part.dtype, device=buffer.device)
            for each in messages:
                total += part.decoded(pytree.tree_unflatten(each[span], form))
            part.gradient.copy_((total / len(messages)).reshape(part.gradient.shape))
        return buffer

    return _then(dist.all_gather(arrived, message, group=group, async_op=True), averaged, arrived, message)


_STARTED: list[tuple[weakref.ref[Any], Any]] = []


def _then(work: Any, finish: Callable[[Any], Tensor], *used: Any) -> Future[Tensor]:
    """What ``finish`` makes of the work's result; ``used`` are the tensors that the work uses.

    A thread of the group runs ``finish``, and releases it, its result and the tensors a moment later. If it is the last owner of one
    and the interpreter has ended, it aborts the process. So they are kept here until the next bucket, and ``_wait`` waits for the thread.
    """
    future: Future[Tensor] = work.get_future().then(finish)
    _STARTED[:] = [each for each in _STARTED if each[0]() is not None]
    _STARTED.append((weakref.ref(finish), (future, used)))
    return future


@atexit.register
def _wait() -> None:
    end = time.monotonic() + 5
    while any(finish() is not None for finish, _ in _STARTED) and time.monotonic() < end:
        time.sleep(0.001)


class _Part:
    """One parameter's share of a bucket in one step."""

    def __init__(self, state: "ErrorFeedbackState", parameter: Tensor, gradient: Tensor, step: int, group: Any) -> None:
        self.compressor, self.gradient, self.d = state.compressor, gradient, gradient.numel()
        self.dtype = _precision(gradient)
        if parameter not in state._kept:
            error, first = (
                torch.zeros(1, self.d, dtype=self.dtype, device=gradient.device),
                _started(self.compressor, self.d, self.dtype),
            )
            state._kept[parameter] = _Kept(len(state._kept), error, first)
        self.kept = state._kept[parameter]
        self.kept.error, warm = (
            self.kept.error.to(gradient.device, self.dtype),
            self.kept.warm,
        )  # the model may have been moved since
        self.kept.warm = None if warm is None else warm.to(gradient.device, self.dtype)
        count = state.compressor.words(self.d) if hasattr(state.compressor, "words") else 0
        self.u: Tensor | None = None
        if count:
            with torch.device("cpu"):
                key = Key(state.seed, [dist.get_rank(group)], [0], dist.get_world_size(group))
                key = key.shared if getattr(state.compressor, "shared", False) else key
                self.u = key.uniform(f"ddp/{self.kept.number}", count, torch.tensor([[[[step]]]]))[0, 0].to(
                    gradient.device
                )

    def encoded(self) -> Any:
        """C(g + e), packed; what it leaves out is remembered."""
        kept, z = self.kept, self.gradient.reshape(1, -1).to(self.dtype) + self.kept.error
        payload = self.compressor.encode(z, self.u, kept.warm)
        left = z - self.decoded(payload)
        finite = torch.isfinite(left).all()  # it is not where z is not, nor where what was sent overflows
        kept.error = torch.where(finite, left, kept.error)
        if kept.warm is not None:
            kept.warm = torch.where(finite, self.compressor.warm(payload, self.d), kept.warm)
        return payload

    def decoded(self, payload: Any) -> Tensor:
        """What a rank sent, [1, d]."""
        shared = getattr(self.compressor, "shared", False)
        decoded: Tensor = self.compressor.decode(payload, self.d, self.dtype, self.u if shared else None)
        return decoded


def _order(leaves: Sequence[Tensor]) -> list[int]:
    """Largest numbers first: then each lies where its precision wants it, without padding."""
    return sorted(range(len(leaves)), key=lambda k: -leaves[k].element_size())


def _joined(leaves: Sequence[Tensor]) -> Tensor:
    """All leaves as one row of bytes."""
    return torch.cat([leaves[k].contiguous().reshape(-1).view(torch.uint8) for k in _order(leaves)])


def _parted(message: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """A rank's leaves, of the shapes and precisions of the own ``leaves``."""
    out, start = list(leaves), 0
    for k in _order(leaves):
        length = leaves[k].numel() * leaves[k].element_size()
        out[k] = message[start : start + length].view(leaves[k].dtype).reshape(leaves[k].shape)
        start += length
    return out


def _bare(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside DDP, whose names a saved state has."""
    inner = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    if not isinstance(inner, torch.nn.Module):
        raise InputError(f"model is a {type(model).__name__}; give the model that the hook works on")
    return inner


def _precision(gradient: Tensor) -> torch.dtype:
    """That of the memory: half precision loses too much to remember."""
    return torch.float32 if gradient.element_size() < 4 else gradient.dtype


def _started(compressor: Any, d: int, dtype: torch.dtype) -> Tensor | None:
    """What the first encoding of d numbers starts from [1, *], if from anything."""
    if not d or not hasattr(compressor, "start"):
        return None
    with torch.device("cpu"):
        start: Tensor = compressor.start(d, dtype).expand(1, -1)
    return start


def _counts(value: Any) -> bool:
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
