"""The optimiser for training scripts: every rank is an agent, and every ``step()`` a round."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from distopt.catalog.parts import label, part
from distopt.errors import InputError, RunError
from distopt.fingerprint import plain
from distopt.network.graphs import graph_from_edges
from distopt.network.network import Network
from distopt.network.topology import build_topologies
from distopt.numerics.random import Key
from distopt.optim import meeting, saving
from distopt.optim.bucket import Bucket, divided
from distopt.optim.constants import Versions, constants, number, shown, with_constants, without_constants
from distopt.optim.joining import Joinable, Joined, JoinHook, announce
from distopt.optim.local import local_steps
from distopt.optim.observing import Observed
from distopt.optim.ranks import Ranks
from distopt.ranges import choice, flag, whole


class Decentralized(Observed, Optimizer, Joinable):
    """Train a model on all ranks, without a coordinator: each rank keeps parameters of its own and mixes them with its neighbours'.

    One ``step()`` is one round of the algorithm on every rank. Gradients stay where they are; the model is NOT wrapped in
    DistributedDataParallel. Parameters, trackers and compressed messages are those of the simulator (``distopt.simulate``), and so are the
    results.

    All ranks must make the optimiser, and call ``step``, ``averaged`` and the other methods that share numbers, in the same order. The
    parameters begin as they are on rank 0.

    Args:
        params: parameters, named parameters or parameter groups. Frozen ones (``requires_grad=False``) are left alone.
        algorithm: a spec such as "gtadam" or "gt:form=atc" (``distopt list algorithms``), an object, or the path of a Python file.
        lr: the step size; None: the algorithm's own. Groups may have their own ``lr``, and schedulers may change it, as they may any number
            of the algorithm (``b1``, ``eps``, ...).
        topology: the network, a spec or an object (``distopt list topologies``), with as many agents as ranks.
        channel: how messages travel: "exact", "choco:compressor=sign,gamma=0.4", ... (``distopt list channels``).
        weights: the rule that makes W.
        weight_decay: this times the parameters is added to the gradients.
        decoupled_weight_decay: the decay is taken off the parameters instead, multiplied by lr, as AdamW does.
        every: steps from one exchange with the neighbours to the next; the steps between are local (see
            ``distopt.algorithms.k_gt``).
        overlap: send the next round's first messages at the end of ``step()``, so that they travel while the script
            loads data and computes gradients. Results are bitwise the same. ``repr`` lists the messages for which this
            is possible.
        bucket_mb: largest size of a bucket of parameters in megabytes; each bucket has its own state and messages.
        process_group: the ranks; None: all. Its messages and the optimiser's never meet.
        seed: the random seed of compressors and topologies.
        timeout: seconds to wait for another rank; None: as long as the process group does.
        mode: "auto" compiles the rounds on CPUs at the first step; "eager" does not.

    Raises:
        InputError: invalid settings, or settings that differ among ranks; the message names the first difference.
        RunError: a rank is missing or lost; it is named.

    >>> import torch
    >>> from distopt.optim import Decentralized
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = Decentralized(model.named_parameters(), "gt", lr=0.5)  # one rank alone
    >>> for _ in range(60):
    ...     optimizer.zero_grad()
    ...     (model.weight - 3).square().sum().div(2).backward()
    ...     optimizer.step()
    >>> round(model.weight.item(), 4)
    3.0
    """

    _step_supports_amp_scaling = (
        True  # torch's GradScaler then also calls ``step`` with overflowing gradients, and sets a flag
    )

    def __init__(
        self,
        params: Iterable[Any],
        algorithm: Any = "gtadam",
        *,
        lr: float | None = None,
        topology: Any = "ring",
        channel: Any = "exact",
        weights: str = "metropolis",
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        every: int = 1,
        overlap: bool = True,
        bucket_mb: float = 25,
        process_group: Any = None,
        seed: int = 0,
        timeout: float | None = None,
        mode: str = "auto",
    ) -> None:
        whole("Decentralized", 1, every=every)
        whole("Decentralized", 0, seed=seed)
        flag("Decentralized", overlap=overlap, decoupled_weight_decay=decoupled_weight_decay)
        choice("Decentralized", ("auto", "eager"), mode=mode)
        self._mode = mode
        if not bucket_mb > 0:
            raise InputError(f"bucket_mb={bucket_mb}: must be above 0")
        self._every, self._overlap, self._decoupled = every, overlap, decoupled_weight_decay
        self._bucket_mb, self._seed = bucket_mb, seed
        self._ranks = Ranks(process_group, timeout)
        try:
            self._make(params, algorithm, lr, topology, channel, weights, weight_decay)
        except Exception as error:  # the other ranks have the same one: they do not wait
            failure = self._ranks.failed(error)
            raise failure from (None if str(failure) == str(error) else error)
        self._ready = True
        self._finalizer = weakref.finalize(self, meeting.leave, self._buckets)

    def _make(
        self, params: Iterable[Any], algorithm: Any, lr: Any, topology: Any, channel: Any, weights: str, decay: float
    ) -> None:
        """See that all ranks have the same settings, and make the network and the buckets."""
        made = part("algorithms", algorithm, ("init", "update", "channels"), {})
        if made.for_rows is not None:
            raise InputError(
                f"{label(algorithm)} needs gradients of single rows of fixed data, which a closure cannot give; use gt_storm, which works batch "
                "by batch"
            )
        if made.gradient_free:
            raise InputError(
                f"{label(algorithm)} estimates gradients from costs, but a closure gives gradients; use the algorithm without bandit"
            )
        if self._every > 1:
            made = local_steps(label(algorithm), made, self._every)
        numbers = constants(made)
        if lr is not None:
            if "lr" not in numbers:
                raise InputError(f"lr={lr}: {label(algorithm)} has no numeric step size; leave lr out")
            numbers["lr"] = number(lr, "lr")
        if self._decoupled and "lr" not in numbers:
            raise InputError(
                f"decoupled_weight_decay needs a numeric step size, and {label(algorithm)} has none; leave it out"
            )
        self._algorithm = with_constants(made, numbers)
        self._called = algorithm if isinstance(algorithm, str) else meeting.called(type(self), self._algorithm)
        self._versions = Versions(self._algorithm, tuple(numbers))
        size, seed = self._ranks.size, self._seed
        shared = {"channel": channel, "every": self._every, "bucket_mb": self._bucket_mb, "seed": seed}
        shared = {"algorithm": without_constants(made), **shared, "decoupled_weight_decay": self._decoupled}
        self._settings = {name: json.dumps(plain(value)) for name, value in shared.items()}
        others = {"topology": plain(topology), "weights": weights, "weight_decay": str(decay), **numbers}
        self._ranks.same("making the optimiser", [*self._settings.items(), *others.items()])
        graphs: Any = graph_from_edges(1, []) if size == 1 else build_topologies(topology, size, seed)
        self._network = Network.of(graphs, weights, self._algorithm, channel, Key(seed, range(size), range(1), size))
        for doubt in self._network.doubts:
            warnings.warn(doubt, stacklevel=meeting.level())
        rows = json.dumps(plain(self._network.rows(torch.arange(64).reshape(-1, 1, 1, 1))))
        self._network_digest = hashlib.sha256(rows.encode()).hexdigest()[:16]
        self._buckets: list[Bucket] = []
        self._frozen: list[tuple[str, Tensor]] = []
        self._ready = self._met = self._compared = self._warned = False
        self._t = self._done = 0  # rounds, and the buckets that finished the present one
        self._elsewhere: int | None = None
        Joinable.__init__(self)
        # the groups themselves hold where the state was saved, since torch.distributed.checkpoint accepts no other keys
        super().__init__(params, {**numbers, "weight_decay": decay, **self._about, **self._settings})
        for group in self.param_groups:
            self._begin(group)

    # ---- parameters

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; all ranks do so at once. They begin as they are on rank 0, with trackers and memories of their own."""
        super().add_param_group(param_group)
        if self.__dict__.get("_ready"):
            self._begin(self.param_groups[-1])

    def _begin(self, group: dict[str, Any]) -> None:
        """Make the buckets of a parameter group."""
        before = itertools.takewhile(
            lambda each: each is not group, self.param_groups
        )  # to compare groups compares tensors
        first = sum(len(each["params"]) for each in before) + len(self._frozen)
        params = group["params"]
        names = group.get("param_names", [f"parameter {first + k}" for k in range(len(params))])
        numbers = {name: number(group[name], name) for name in (*self._versions.names, "weight_decay")}
        meeting.same_parameters(names, params, self._ranks, numbers)
        own = [(name, each) for name, each in zip(names, params, strict=True) if each.requires_grad]
        group["params"] = [each for _, each in own]  # so frozen ones can be added when they are to be trained
        if "param_names" in group:
            group["param_names"] = [name for name, _ in own]
        self._frozen += [(name, each) for name, each in zip(names, params, strict=True) if not each.requires_grad]
        algorithm = self._versions.of(group)
        for places in divided([each for _, each in own], self._bucket_mb):
            some = [own[k] for k in places]
            bucket = Bucket(
                len(self._buckets),
                [name for name, _ in some],
                [each for _, each in some],
                group,
                algorithm,
                self._network,
                self._ranks,
                self._seed,
                self._mode == "auto",
            )
            bucket.agents.t = self._t
            self._buckets.append(bucket)

    # ---- rounds

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One round, with the gradients that the parameters have; one that is None counts as zero. What ``closure`` returns.

        Args:
            closure: computes the gradients again and returns the loss. Algorithms that take a second gradient in a
                round need it.

        Raises:
            RunError: another rank is lost, or silent for ``timeout`` seconds.
            InputError: gradients or numbers that do not do, on this rank or another; all have the same error.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        announce(self)
        self._round(closure)
        return loss

    def _round(self, closure: Callable[[], Any] | None, idle: bool = False) -> None:
        """A round. An ``idle`` rank has no data left: its gradients are zero. An error here is one on all ranks."""
        self._meet()
        self._done = 0
        try:
            self._begin_round(idle)
            self._mix(closure)
        except Exception as error:
            if self._done and self._done == len(self._buckets):
                self._t, self._done = self._t + 1, 0
            failure = self._ranks.failed(error)
            if self._ranks.broken is not None:
                meeting.drop(self._buckets)
            raise failure from (None if str(failure) == str(error) else error)

    def _begin_round(self, idle: bool) -> None:
        """Take the gradients."""
        meeting.still_frozen(self._frozen, self._buckets)
        found = getattr(self, "found_inf", None)
        overflow = found is not None and float(found) > 0
        for bucket in self._buckets:
            bucket.look()
            if idle:
                bucket.gradient.zero_()
            elif (
                not overflow
            ):  # else the last gradients are used again: a rank that skips a round would break the trackers
                decay = number(bucket.group["weight_decay"], "weight_decay")
                bucket.read(getattr(self, "grad_scale", None), 0.0 if self._decoupled else decay)
        if not self._compared:
            meeting.own_gradients(self._buckets, self._ranks)
            self._compared = True
        if any(bucket.moved for bucket in self._buckets) and not self._warned:
            self._warned = True
            text = "parameters were changed between two steps; this moves the mean of all agents, too"
            warnings.warn(text, stacklevel=meeting.level())

    def _mix(self, closure: Callable[[], Any] | None) -> None:
        """Go to the next point."""
        for bucket in self._buckets:
            shrink = 0.0
            if self._decoupled:
                shrink = number(bucket.group["lr"], "lr") * number(bucket.group["weight_decay"], "weight_decay")
            algorithm = self._versions.of(bucket.group)
            if (self._t + 1) % self._every:
                bucket.local(algorithm, self._t, shrink)
                self._done += 1
                continue
            bucket.step(algorithm, self._again(bucket, closure), shrink)
            self._done += 1
            if self._overlap:
                with suppress(RunError):  # a neighbour may have ended after this round; a next one would say so
                    bucket.send()
        self._t, self._done = self._t + 1, 0

    def _again(self, bucket: Bucket, closure: Callable[[], Any] | None) -> Callable[[Tensor], Tensor]:
        """What takes the gradients of a round at another point (``mix.grad``)."""

        def grad(y: Tensor) -> Tensor:
            if closure is None or len(self._buckets) > 1:
                raise InputError(
                    f"{type(self._algorithm).__name__.lower()} takes several gradients in a round; call step(closure), with bucket_mb so large "
                    "that all parameters are in one bucket"
                )
            return bucket.gradient_at(y, closure)

        return grad

    def _meet(self) -> None:
        if self._ranks.broken is not None:
            raise self._ranks.broken
        if not self._met:
            meeting.same_round(self._buckets, self._ranks, self._t, self._elsewhere)
            self._met = True
            for bucket in self._buckets if self._overlap and self._t else []:
                bucket.send()  # as the last step before the state was saved did; what was written to parameters then comes later

    def join_hook(self, **kwargs: Any) -> JoinHook:
        """For ``torch.distributed.algorithms.Join``: a rank without data continues with zero gradients while others have data."""
        return Joined(lambda: self._round(None, idle=True))

    @property
    def join_device(self) -> torch.device:
        """Where ``Join`` counts the ranks that have data."""
        return torch.device("cpu")

    @property
    def join_process_group(self) -> Any:
        """The ranks that ``Join`` counts."""
        return self._ranks.joined

    # ---- saving

    @property
    def state(self) -> Any:
        """What the agent holds, by parameter: its point "x", the leaves of the algorithm's state and of the channels' memories."""
        if not self.__dict__.get("_ready"):
            return self._before
        return saving.by_parameter(self._buckets, self._t)

    @state.setter
    def state(self, value: Any) -> None:
        self._before = value

    def state_dict(self) -> dict[str, Any]:
        """The state of THIS rank, from which it continues with the same bits: plain tensors, numbers and texts.
        Each rank saves its own.

        Raises:
            RunError: the last ``step`` ended in the middle.
        """
        if self._done:
            raise RunError("a step failed halfway, so the state mixes two rounds; load an earlier state")
        return super().state_dict()

    @property
    def _about(self) -> dict[str, Any]:
        """Where the state was saved: rank, world size and settings."""
        return {"rank": self._ranks.rank, "world_size": self._ranks.size, "network": self._network_digest}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, parameters included. All ranks load a state of the same round.

        If it was saved with another number of ranks or on another network, only the parameters are loaded; trackers and memories restart. A
        rank that was not there before loads any state; it begins where the mean of the others is.

        Raises:
            InputError: the state is of another rank, of other settings or of other parameters. Nothing has changed then.
        """
        content: Any = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            content = hook(self, content) or content
        self._t, self._elsewhere = saving.load(self._buckets, self.param_groups, self._about, self._settings, content)
        self._met, self._done = False, 0
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("the optimiser is connected to the other ranks and cannot be copied; copy its state_dict()")

    def __repr__(self) -> str:
        names = sorted({name for bucket in self._buckets for name in bucket.agents.method.plan.early})
        ahead = f"{', '.join(names)} sent ahead" if names and self._overlap else "nothing sent ahead"
        numbers = sum(sum(bucket.sizes) for bucket in self._buckets)
        many = f"{len(self._buckets)} bucket{'s' * (len(self._buckets) != 1)}"
        where = f"rank {self._ranks.rank} of {self._ranks.size}, {numbers:,} parameters in {many}, {ahead}"
        groups = shown(self.param_groups, {"params", "param_names", *self._about, *self._settings})
        return f"{type(self).__name__} (\n{groups})\n{self._called} through {self._settings['channel']}, {where}"
