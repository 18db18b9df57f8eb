"""Saving and loading a rank's optimiser state, parameter by parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.trees import default_dtype
from distopt.optim.bucket import Bucket
from distopt.optim.compiled import CompiledAgents

VALUE = "parameter"
"""The name of the parameter itself."""

SHARED = "bucket."
"""In front of the name of a leaf that is not as wide as the parameters. It is stored with the first parameter of its bucket."""


def by_parameter(buckets: Sequence[Bucket], t: int) -> dict[Tensor, dict[str, Tensor]]:
    """What the agent holds: for each parameter the round under "step", its value, and views of the rows by name.

    The value differs from the agent's point if the parameter was changed since the last step, or has a lower precision.
    """
    found: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
    for bucket in buckets:
        width = sum(bucket.sizes)
        for each in bucket.params:
            found[each]["step"] = torch.tensor(t)
        rows = _rows(bucket)
        if isinstance(bucket.agents, CompiledAgents):  # the next step writes over what they hold
            copies = {id(row): row.clone() for row in rows.values()}
            rows = {name: copies[id(row)] for name, row in rows.items()}
        for each, view in zip(bucket.params, bucket.parted(rows["x"]), strict=True):
            there = view.to(each.dtype)
            found[each][VALUE] = there if torch.equal(each, there) else each.detach().clone()
        for name, row in rows.items():
            if row.shape[-1] == width:
                for each, view in zip(bucket.params, bucket.parted(row), strict=True):
                    found[each][name] = view
            else:
                found[bucket.params[0]][SHARED + name] = row
    return found


def _rows(bucket: Bucket) -> dict[str, Tensor]:
    """The saved state of a bucket: its agent's values and the last gradient, which is used again if the next one overflows."""
    rows = bucket.leaves()
    known = rows.get("g")
    same = known is not None and torch.equal(known, bucket.gradient)  # what files then hold once
    return {**rows, "gradient": known if same and known is not None else bucket.gradient.clone()}


ABOUT = ("rank", "world_size", "network")
"""Where a state was saved (rank, world size, ...), as stored in each parameter group beside the settings.
The round is stored with each parameter, as "step"."""


def load(
    buckets: Sequence[Bucket],
    groups: Sequence[dict[str, Any]],
    here: Mapping[str, Any],
    settings: Mapping[str, Any],
    content: Mapping[str, Any],
) -> tuple[int, int | None]:
    """Put a saved state into the buckets and the parameter groups: (its round, the number of ranks that it is of, if it was not fully used).

    Args:
        buckets: all of them.
        groups: the parameter groups.
        here: what ``ABOUT`` names, as it is now.
        settings: what else must be the same.
        content: what ``state_dict`` gave.

    Raises:
        InputError: it does not fit. Nothing has changed then.
    """
    for bucket in buckets:
        bucket.own()
    saved = _groups(groups, content)
    about: dict[str, Any] = {name: saved[0].get(name) for name in ABOUT}
    if any(about[name] is None for name in ABOUT):
        raise InputError("this is not a state of a distopt optimiser: it does not name its rank")
    for name, mine in settings.items():
        if saved[0].get(name) != mine:
            raise InputError(f"the state was saved with {name} {saved[0].get(name)}, but this optimiser has {mine}")
    rank, size = here["rank"], here["world_size"]
    if about["rank"] != rank and rank < about["world_size"]:
        raise InputError(
            f"the state belongs to rank {about['rank']}, but this is rank {rank}; save and load one file for each rank"
        )
    ids = [each for group in saved for each in group["params"]]
    named = dict(zip((each for group in groups for each in group["params"]), ids, strict=True))
    full = about["world_size"] == size and about["network"] == here["network"]
    held = [_leaves(bucket, named, content["state"], full) for bucket in buckets]
    rounds = {int(content["state"][named[each]].get("step", 0)) for bucket in buckets for each in bucket.params}
    if len(rounds) > 1:
        raise InputError(f"the state mixes several rounds: {sorted(rounds)}; load a state of one round")
    t = max(rounds, default=0)
    for group, its in zip(groups, saved, strict=True):
        group |= {
            name: value for name, value in its.items() if name not in ("params", "param_names", *ABOUT, *settings)
        }
    for bucket, leaves in zip(buckets, held, strict=True):
        with default_dtype(bucket.dtype):
            bucket.place(bucket.replaced(leaves[:-1]) if full else leaves[0], t)
        if full:
            bucket.gradient.copy_(leaves[-1])
        else:
            bucket.gradient.zero_()
        bucket.write()
        with torch.no_grad():
            for each in bucket.params if full else []:
                each.copy_(content["state"][named[each]].get(VALUE, each))
    return t, None if full else about["world_size"]


def _groups(groups: Sequence[dict[str, Any]], content: Any) -> list[dict[str, Any]]:
    """The saved parameter groups, which have as many parameters as ours."""
    if not isinstance(content, Mapping) or "state" not in content or "param_groups" not in content:
        raise InputError("load_state_dict needs what state_dict returned")
    saved = list(content["param_groups"])
    ours, theirs = [len(each["params"]) for each in groups], [len(each["params"]) for each in saved]
    if ours != theirs:
        raise InputError(f"the state has groups of {theirs} parameters, but this optimiser has groups of {ours}")
    return saved


def _leaves(bucket: Bucket, named: Mapping[Tensor, Any], state: Mapping[Any, Any], full: bool) -> list[Tensor]:
    """The saved leaves of a bucket, or its point alone; of the form that they have here."""
    found = []
    for name, row in _rows(bucket).items() if full else [("x", bucket.held.x)]:
        new = torch.empty_like(row)
        whole = row.shape[-1] == sum(bucket.sizes)
        views = bucket.parted(new) if whole else [new]
        for its, each, view in zip(bucket.names, bucket.params, views, strict=False):
            key = name if whole else SHARED + name
            kept = state.get(named[each], {}).get(key)
            if not isinstance(kept, Tensor):
                raise InputError(
                    f"the state of {its} has no {key!r}; it was saved with another algorithm, channel or bucket_mb"
                )
            if kept.shape != view.shape or kept.dtype != view.dtype:
                raise InputError(
                    f"{key!r} of {its} has shape {list(kept.shape)} and {kept.dtype} in the state, and {list(view.shape)} and {view.dtype} here"
                )
            view.copy_(kept)
        found.append(new)
    return found
