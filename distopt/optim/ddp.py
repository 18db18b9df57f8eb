"""Error-feedback compression of gradients in DistributedDataParallel: a communication hook for an existing training script."""

import atexit
import dataclasses
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.futures import Future
from torch.utils import _pytree as pytree

from distopt.catalog import registry
from distopt.channels.error_feedback import ErrorFeedback
from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.numerics.trees import tree_map
from distopt.optim.memory import Kept, bare, counts, loaded, precision, saved
from distopt.optional import CompressorDefaults, completed

dist: Any = torch.distributed  # torch does not declare all that it exports


class ErrorFeedbackState:
    """The memory of ``error_feedback_hook``: for each parameter, what its messages have left out so far [karimireddy2019].

    With the gradient g_i of rank i, of n, for one parameter tensor of d numbers:

        z_i = g_i + e_i,    e_i <- z_i - C(z_i),    every rank's gradient becomes (1/n) sum_j C(z_j)

    The packed C(z_i) of all parameters of a bucket travel in one message (an all_gather). Every rank decodes and adds them in the order
    of ranks, so replicas stay bitwise identical. Each parameter is compressed on its own, as in the paper's experiments, and has its
    own memory. The memory does not depend on buckets: DDP forms new ones after the first step.

    The memory is in units of gradients. The paper's memory is in units of parameters: it includes the step size. With a
    constant step size both agree; when the step size drops from a to b, the paper's memory corresponds to this one times
    a / b. Momentum and weight decay of the optimiser act after the hook, on the average, where the paper adds them before.

    If a gradient is not finite, neither is its message, so the error shows. The memory then keeps its old value, so a
    step that a gradient scaler skips does no harm.

    Args:
        compressor: a spec such as "sign" or "topk(fraction=0.01)" (``distopt list compressors``), or an object with its methods.
            One that loses nothing ("identity") goes through the all-reduce that DDP does without a hook, with the same bits.
        process_group: the ranks; None: all of them.
        start_iter: number of first steps that are sent uncompressed, by DDP's own all-reduce.
        seed: the random seed of compressors. Random numbers are addressed by step, parameter and rank.

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
            if not counts(value):
                raise InputError(f"{name}={value!r}: must be a whole number, 0 or more")
        self.compressor = registry.make("compressors", compressor) if isinstance(compressor, str) else compressor
        if isinstance(self.compressor, type) or not all(
            hasattr(self.compressor, each) for each in ("encode", "decode", "bits", "delta")
        ):
            raise InputError(
                f'compressor={compressor!r}: must be a spec such as "sign", or an object with the methods of a compressor'
            )
        self.compressor = completed(CompressorDefaults, self.compressor)
        self.process_group, self.start_iter, self.seed = process_group, start_iter, seed
        self.step, self.bytes_sent = 0, 0
        self._kept: dict[Tensor, Kept] = {}

    def state_dict(self, model: torch.nn.Module) -> dict[str, Any]:
        """The state of THIS rank by parameter names, from which it continues with the same bits; ``torch.save`` can write it.

        The memory differs from rank to rank, so that each saves its own. The process group is not in it.

        Raises:
            InputError: the hook has worked on another model.
        """
        names: dict[Tensor, str] = {parameter: name for name, parameter in bare(model).named_parameters()}
        if any(parameter not in names for parameter in self._kept):
            raise InputError(
                "the hook holds memory of parameters that this model does not have; give state_dict the model that was trained with it"
            )
        kept = {
            names[parameter]: {
                "number": each.number,
                **saved(each.memory),
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
        about = self._described(), self._rank()
        self.step, self.bytes_sent, self._kept = loaded(content, bare(model), self.compressor, *about)

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
            f" of seed {self.seed}" if type(compressor).words is not CompressorDefaults.words else ""
        )

    def _rank(self) -> list[int] | None:
        """This rank and the number of ranks; None before the first step."""
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
    ]  # an empty parameter has nothing to send
    step = state.step
    if bucket.is_last():
        state.step += 1
    if step < state.start_iter or all(state.compressor.delta(gradient.numel()) == 1 for _, gradient in pairs):
        state.bytes_sent += buffer.numel() * buffer.element_size()
        buffer.mul_(1 / dist.get_world_size(group))  # as DDP does it
        return _then(dist.all_reduce(buffer, group=group, async_op=True), lambda _: buffer, buffer)

    parts = [_Part(state, parameter, gradient, step, group) for parameter, gradient in pairs]
    payloads, forms = zip(*(pytree.tree_flatten(part.payload) for part in parts), strict=True)
    leaves = [leaf for payload in payloads for leaf in payload]
    message = _joined(leaves)
    state.bytes_sent += message.numel()
    arrived = [torch.empty_like(message) for _ in range(dist.get_world_size(group))]

    def averaged(_: Any) -> Tensor:
        rows = [torch.cat(each, 1) for each in zip(*(_parted(each, leaves) for each in arrived), strict=True)]
        first = 0
        for part, form, payload in zip(parts, forms, payloads, strict=True):
            span = slice(first, first := first + len(payload))
            part.finish(pytree.tree_unflatten(rows[span], form))
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
    """One parameter's share of a bucket in one step: the channel ``error_feedback`` between ranks that all receive from each other."""

    def __init__(self, state: "ErrorFeedbackState", parameter: Tensor, gradient: Tensor, step: int, group: Any) -> None:
        self.channel, self.gradient, self.rank = ErrorFeedback(state.compressor), gradient, dist.get_rank(group)
        self.z = gradient.reshape(1, 1, -1).to(precision(gradient))
        if parameter not in state._kept:
            state._kept[parameter] = Kept(len(state._kept), self.channel.init(self.z))
        self.kept = state._kept[parameter]
        self.kept.memory = tree_map(lambda leaf: leaf.to(self.z), self.kept.memory)  # the model may have been moved
        count = self.channel.words(self.z.shape[-1])
        self.u: Tensor | None = None
        if count:
            with torch.device("cpu"):
                key = Key(state.seed, [self.rank], [0], dist.get_world_size(group))
                key = key.shared if self.channel.shared else key
                drawn = key.uniform(f"ddp/{self.kept.number}", count, torch.tensor([[[[step]]]]))
                self.u = drawn[0].to(gradient.device)
        self.payload = self.channel.encode(self.z, self.kept.memory, self.u)

    def finish(self, heard: Any) -> None:
        """The average of what all ranks sent becomes the gradient, and what this one's message left out is remembered."""
        wire: Any = _All(heard, slice(self.rank, self.rank + 1))
        before = self.kept.memory
        mean, after = self.channel(self.z, self.payload, before, wire, self.u if self.channel.shared else None)
        self.gradient.copy_(mean.reshape(self.gradient.shape))
        finite = torch.isfinite(after.e).all()  # it is not where the gradient is not, nor where what was sent overflows
        leaves, form = pytree.tree_flatten(after)
        kept = [torch.where(finite, new, old) for new, old in zip(leaves, pytree.tree_leaves(before), strict=True)]
        self.kept.memory = pytree.tree_unflatten(kept, form)


class _All(NamedTuple):
    """Ranks that all hear each other (see ``distopt.protocols.Wire``): what they sent, and which row of it is this rank's."""

    payload: Any
    own: slice

    def heard(self, payload: Any) -> Any:
        """What all ranks sent."""
        return self.payload

    def weigh(self, rows: Tensor) -> Tensor:
        """The mean, summed in the order of ranks: it has the same bits on all of them."""
        total = torch.zeros_like(rows[:, :1])
        for each in torch.split(rows, 1, 1):
            total += each
        return total / rows.shape[1]


def _order(leaves: Sequence[Tensor]) -> list[int]:
    """Wide types first: then every leaf is aligned without padding."""
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
