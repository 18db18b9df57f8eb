"""Error-feedback compression of gradients in DistributedDataParallel: a communication hook for an existing training script."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.futures import Future
from torch.utils import _pytree as pytree

from distopt import catalog
from distopt.errors import InputError
from distopt.random import Key

dist: Any = torch.distributed  # which does not declare all that it exports


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
        InputError: no such compressor, or a number of steps below 0.

    >>> state = ErrorFeedbackState(compressor="sign")
    >>> (state.step, state.bytes_sent)
    (0, 0)
    """

    def __init__(self, compressor: Any = "sign", process_group: Any = None, start_iter: int = 0, seed: int = 0) -> None:
        if start_iter < 0:
            raise InputError(f"start_iter={start_iter}: so many steps cannot be sent uncompressed; give 0 or more")
        self.compressor = catalog.make("compressors", compressor) if isinstance(compressor, str) else compressor
        self.process_group, self.start_iter, self.seed = process_group, start_iter, seed
        self.step, self.bytes_sent = 0, 0
        self._kept: dict[Tensor, _Kept] = {}

    def state_dict(self, model: torch.nn.Module) -> dict[str, Any]:
        """What THIS rank must save to go on with the same bits, by the names of the model's parameters; ``torch.save`` takes it.

        The memory differs from rank to rank, so that each saves its own. The process group is not in it.
        """
        names: dict[Tensor, str] = {parameter: name for name, parameter in _bare(model).named_parameters()}
        kept = {names[parameter]: {"number": each.number, "error": each.error, "warm": each.warm} for parameter, each in self._kept.items()}
        return {"step": self.step, "bytes_sent": self.bytes_sent, "kept": kept}

    def load_state_dict(self, content: Mapping[str, Any], model: torch.nn.Module) -> None:
        """Go on from what ``state_dict`` gave.

        Raises:
            InputError: a parameter that the model has not, or of another shape.
        """
        parameters = dict(_bare(model).named_parameters())
        found: dict[Tensor, _Kept] = {}
        for name, each in content["kept"].items():
            parameter = parameters.get(name)
            if parameter is None or parameter.numel() != each["error"].numel():
                has = "no such parameter" if parameter is None else f"one of {parameter.numel()} numbers, not {each['error'].numel()}"
                raise InputError(f"the saved memory is that of another model: for {name} this one has {has}")
            moved = [None if leaf is None else leaf.to(parameter.device).clone() for leaf in (each["error"], each["warm"])]
            found[parameter] = _Kept(int(each["number"]), moved[0], moved[1])
        self.step, self.bytes_sent, self._kept = int(content["step"]), int(content["bytes_sent"]), found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process_group": None}  # a group cannot be copied nor saved


def error_feedback_hook(state: ErrorFeedbackState, bucket: dist.GradBucket) -> Future[Tensor]:
    """The hook: ``model.register_comm_hook(ErrorFeedbackState(compressor="sign"), error_feedback_hook)`` (see ``ErrorFeedbackState``)."""
    group = state.process_group or dist.group.WORLD
    buffer: Tensor = bucket.buffer()
    gradients, parameters = bucket.gradients(), bucket.parameters()
    step = state.step
    if bucket.is_last():
        state.step += 1
    if step < state.start_iter or all(state.compressor.delta(gradient.numel()) == 1 for gradient in gradients):
        state.bytes_sent += buffer.numel() * buffer.element_size()
        buffer.mul_(1 / dist.get_world_size(group))  # as DDP does it
        whole: Future[Tensor] = dist.all_reduce(buffer, group=group, async_op=True).get_future().then(lambda _: buffer)
        return whole

    parts = [_Part(state, parameter, gradient, step, group) for parameter, gradient in zip(parameters, gradients, strict=True)]
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

    gathered: Future[Tensor] = dist.all_gather(arrived, message, group=group, async_op=True).get_future().then(averaged)
    return gathered


class _Part:
    """One parameter's share of a bucket in one step."""

    def __init__(self, state: "ErrorFeedbackState", parameter: Tensor, gradient: Tensor, step: int, group: Any) -> None:
        self.compressor, self.gradient, self.d = state.compressor, gradient, gradient.numel()
        self.dtype = torch.float32 if gradient.element_size() < 4 else gradient.dtype  # half precision loses too much to remember
        if parameter not in state._kept:
            start = getattr(state.compressor, "start", None)
            warm = start(self.d, self.dtype).to(gradient.device).expand(1, -1) if start else None
            state._kept[parameter] = _Kept(len(state._kept), torch.zeros(1, self.d, dtype=self.dtype, device=gradient.device), warm)
        self.kept = state._kept[parameter]
        count = state.compressor.words(self.d) if hasattr(state.compressor, "words") else 0
        self.u: Tensor | None = None
        if count:
            key = Key(state.seed, [dist.get_rank(group)], [0], dist.get_world_size(group))
            key = key.shared if getattr(state.compressor, "shared", False) else key
            self.u = key.uniform(f"ddp/{self.kept.number}", count, torch.tensor([[[[step]]]]))[0, 0].to(gradient.device)

    def encoded(self) -> Any:
        """C(g + e), packed; what it leaves out is remembered."""
        kept, z = self.kept, self.gradient.reshape(1, -1).to(self.dtype) + self.kept.error
        payload = self.compressor.encode(z, self.u, kept.warm)
        finite = torch.isfinite(z).all()
        kept.error = torch.where(finite, z - self.decoded(payload), kept.error)
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
    assert isinstance(inner, torch.nn.Module)
    return inner
