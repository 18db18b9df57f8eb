"""A torch model as a function of one row of numbers: its parameters, side by side."""

from __future__ import annotations

import copy
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from distopt.errors import InputError, first_line

SLOW = "There is a performance drop"
"""The beginning of torch's message that it has no batching rule for an operation."""

Score = Callable[[Tensor, Tensor], Tensor]
"""A function of outputs [batch, ...] and targets [batch, ...]: one number without axes, such as their mean loss, or several [*]."""


class Parameters:
    """The trained parameters of a model, in the order of ``named_parameters()``, as a row [d]; its points x are [R, n, d].

    ``batched`` evaluates all rows at once by ``torch.func.vmap``. Otherwise each row is evaluated alone, so that its bits do not depend on other
    rows. Its gradient has the bits of ``backward()`` on a module with this row. Both compute with one thread: with more, torch adds in another order.

    Every thread of the process works on its own copies of the model, one for each precision and device.
    """

    def __init__(self, model: nn.Module, batched: bool) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.model, self.batched = model, batched
        self.shapes = {name: p.shape for name, p in named}
        self.sizes = [p.numel() for _, p in named]
        self.dim = sum(self.sizes)
        self._slow = False  # whether vmap loops over agents for some operation, of which it warns every time
        self._own = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_own"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _own=threading.local())

    def module(self, like: Tensor) -> nn.Module:
        """This thread's copy of the model, of the precision and on the device of ``like``."""
        kept = self._own.__dict__.setdefault("modules", {})
        place = like.dtype, like.device
        if place not in kept:
            kept[place] = copied(self.model).to(device=like.device, dtype=like.dtype)
        found: nn.Module = kept[place]
        return found

    def row(self, model: nn.Module) -> Tensor:
        """The parameters of a model of this kind, [d]."""
        return torch.cat([p.detach().reshape(-1) for _, p in trained(model)])

    def put(self, model: nn.Module, row: Tensor) -> None:
        """Write a row [d] into a model."""
        with torch.no_grad():
            for (_, p), part in zip(trained(model), torch.split(row, self.sizes), strict=True):
                p.copy_(part.view_as(p))

    def scores(self, x: Tensor, inputs: Tensor, targets: Tensor, score: Score) -> Tensor:
        """The scores [R, n, *] at points x, each on its own inputs [R, n, batch, ...] and targets."""
        one = self._function(x, score) if self.batched or x.requires_grad else self._held(x, score)
        with self._surroundings():
            if not self.batched:
                found = torch.stack([one(*each) for each in _pairs(x, inputs, targets)])
                return found.reshape(*x.shape[:-1], -1)
            if together(x):  # products with the same parameters are one product
                return torch.stack([vmap(one, (None, 0, 0))(x[r, 0], inputs[r], targets[r]) for r in range(len(x))])
            whole: Tensor = vmap(one)(*(each.flatten(0, 1) for each in (x, inputs, targets)))
            return whole.reshape(*x.shape[:-1], -1)

    def grad(self, x: Tensor, inputs: Tensor, targets: Tensor, score: Score) -> Tensor:
        """The gradients [R, n, d] of the score, which is one number."""
        x = x.detach()
        with self._surroundings(), torch.enable_grad():
            if self.batched:
                rows, *data = (each.flatten(0, 1) for each in (x.clone(), inputs, targets))
                values = vmap(self._function(x, score))(rows.requires_grad_(), *data)
                (found,) = torch.autograd.grad(
                    values.sum(), rows
                )  # the gradient of the sum, since no row affects another's score
                return found.view(x.shape)
            module, out = self.module(x), torch.empty(x.shape, dtype=x.dtype, device=x.device)
            for g, (row, own, wanted) in zip(out.flatten(0, 1), _pairs(x, inputs, targets), strict=True):
                self.put(module, row)
                backward(module, own, wanted, score)
                for (_, p), part in zip(trained(module), torch.split(g, self.sizes), strict=True):
                    part.copy_(p.grad.reshape(-1) if p.grad is not None else torch.zeros_like(part))
        return out

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(one_thread())
            if self.batched:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # vmap has no rule for the others
            if self._slow and threading.current_thread() is threading.main_thread():  # warnings are not a thread's own
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", SLOW)
            yield

    def _function(self, like: Tensor, score: Score) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The score of one row [d] on its inputs and targets."""
        module = self.module(like)

        def one(row: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            return score(functional_call(module, self._named(row), (inputs,)), targets)

        return one

    def _held(self, like: Tensor, score: Score) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The same by a module that holds the row, which nothing can then be differentiated by."""
        module = self.module(like)

        def one(row: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            self.put(module, row)
            with torch.no_grad():
                return score(module(inputs), targets)

        return one

    def _named(self, row: Tensor) -> dict[str, Tensor]:
        """A row's parts by name. With one row, each parameter gets its own memory, as in torch: matrix products may depend on alignment."""
        parts = zip(self.shapes.items(), torch.split(row, self.sizes), strict=True)
        return {name: (part if self.batched else part.clone()).view(shape) for (name, shape), part in parts}

    def examine(self, inputs: Tensor, targets: Tensor, score: Score) -> Tensor:
        """The model's outputs on some samples, once it is known to be a function of its parameters alone.

        Raises:
            InputError: it fails on them, changes its buffers, draws random numbers, or cannot be batched.
        """
        module = copied(self.model)
        try:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                held, state = [each.clone() for each in module.buffers()], torch.get_rng_state()
                output = backward(module, inputs, targets, score)
                drawn = not torch.equal(state, torch.get_rng_state())
                changed = [
                    name for (name, b), old in zip(module.named_buffers(), held, strict=True) if not same(b, old)
                ]
                again = module(inputs)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"network: the model fails on inputs of shape {list(inputs.shape)} and targets of shape {list(targets.shape)}: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error
        if all(p.grad is None for _, p in trained(module)):
            raise InputError("network: the loss does not depend on the model's parameters; is something detached?")
        if changed:
            statistics = any("running_" in name for name in changed)
            cure = (
                "give BatchNorm layers track_running_stats=False, or take GroupNorm or LayerNorm"
                if statistics
                else "leave such layers out"
            )
            raise InputError(
                f"network: training changes buffers of the model ({_some(changed)}), which are not parameters; {cure}"
            )
        if drawn or not same(output, again):
            random = [
                name for name, each in module.named_modules() if "Dropout" in type(each).__name__ and each.training
            ]
            raise InputError(
                f"network: the model draws random numbers when it is called ({_some(random) or 'other outputs each time'}); leave dropout out "
                "(p=0), or return model.eval()"
            )
        if self.batched:
            self._try_batched(inputs, targets, score)
        return output.detach()

    def _try_batched(self, inputs: Tensor, targets: Tensor, score: Score) -> None:
        x = self.row(self.model).float().expand(1, 2, -1).contiguous()
        twice = [each.expand(1, 2, *each.shape).contiguous() for each in (inputs, targets)]
        try:
            with warnings.catch_warnings(record=True) as said, torch.no_grad():
                warnings.simplefilter("always")
                self.grad(x, twice[0], twice[1], score)
                self.scores(x, twice[0], twice[1], score)
                self.scores(x[:, :1].expand_as(x), twice[0], twice[1], score)
        except Exception as error:
            why = first_line(error).partition(". ")[0]
            raise InputError(
                f"network: torch.func.vmap cannot batch the agents' models ({why}); gradients=each computes them one by one"
            ) from error
        texts = [str(each.message) for each in said]
        self._slow = any(text.startswith(SLOW) for text in texts)
        if self._slow:
            names = sorted({name for text in texts for name in re.findall(r"(aten::\w+)", text)})
            warnings.warn(
                f"network: torch.func.vmap does {_some(names)} agent by agent; gradients=each may be faster",
                stacklevel=6,
            )


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with the model.

    Raises:
        InputError: it cannot be copied.
    """
    if isinstance(model, torch.jit.ScriptModule):  # whose copies in another precision get no gradients
        raise InputError("network: model: a scripted module cannot be trained; return the module that was scripted")
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise InputError(f"network: the model cannot be copied ({first_line(error)})") from error


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def backward(module: nn.Module, inputs: Tensor, targets: Tensor, score: Score) -> Tensor:
    """One step of an ordinary training script, without the optimiser: the outputs, with the gradients left in the module."""
    module.zero_grad()
    output: Tensor = module(inputs)
    loss: Any = score(output, targets)
    loss.backward()
    return output


def together(x: Tensor) -> bool:
    """Whether all agents are at one point, as they are where metrics look at the network average."""
    return x.shape[-2] > 1 and x.stride(-2) == 0


def same(one: Any, other: Any) -> bool:
    """Whether two outputs have the same numbers; nan equals nan."""
    fits = isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape
    return fits and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes with one thread, as scripts under torchrun do."""
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)


def _pairs(x: Tensor, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The points with their inputs and targets, one agent of one trial after the other. Inputs get their own memory, as in torch."""
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            yield x[r, i], inputs[r, i].clone(), targets[r, i].clone()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def build(maker: Any, inputs: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The model that a function makes, in float32, with the weights that torch draws under a seed; or a copy of a given model.

    A function with parameters called ``inputs`` and ``classes`` is given the shape of a sample and the number of outputs.

    Raises:
        InputError: the function fails or makes something else, or there is nothing to train.
    """
    if isinstance(maker, nn.Module):
        model: Any = copied(maker)
    else:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            known = inspect.signature(maker).parameters
            offered = {"inputs": inputs, "classes": classes}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = maker(**{name: value for name, value in offered.items() if name in known})
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"network: model: {type(error).__name__}: {first_line(error)}") from error
        finally:
            torch.set_default_dtype(before)
    if not isinstance(model, nn.Module):
        raise InputError(f"network: model: a torch.nn.Module is needed, not {type(model).__name__}")
    weights = [p for _, p in trained(model)]
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in weights):
        raise InputError("network: model: a lazy layer has no parameters yet; call the model once before you return it")
    if not weights or any(p.is_complex() for p in weights):
        raise InputError(
            f"network: model: {'parameters must be real' if weights else 'there is no parameter to train'}"
        )
    if not all(bool(torch.isfinite(p).all()) for p in weights):
        raise InputError("network: model: its first weights are not finite")
    return model
