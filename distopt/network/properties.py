"""What a weight matrix has to be: a set of properties, how they are spelled, and whether given weights have them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from distopt.errors import InputError
from distopt.network.graphs import TOLERANCE, Floats, Ints

Properties = frozenset[str]
"""Of "row" (rows sum to 1), "column" (columns sum to 1), "symmetric" and "average" (every entry is 1/N)."""

SPELLINGS: dict[str, Properties] = {
    "row": frozenset({"row"}),
    "column": frozenset({"column"}),
    "doubly": frozenset({"row", "column"}),
    "symmetric": frozenset({"row", "column", "symmetric"}),
    "average": frozenset({"row", "column", "symmetric", "average"}),
}
"""The names of sets of properties, the stricter ones later."""

_ADVICE = {
    "row": ("row-stochastic", "divide each row by its sum"),
    "column": ("column-stochastic", "divide each column by its sum, so that a sender splits its value"),
    "doubly": (
        "doubly stochastic",
        "give weights whose columns also sum to 1, or use a rule such as metropolis",
    ),
    "symmetric": ("symmetric", "give symmetric weights, or use a rule such as metropolis"),
    "average": (
        "averaging",
        "use a star, whose hub is then the server, or the complete graph with metropolis weights",
    ),
}


class Terms(NamedTuple):
    """A weight matrix W as a list: W[receiver[k], sender[k]] = weight[k] off the diagonal, W[i, i] = own[i]."""

    receiver: Ints
    sender: Ints
    weight: Floats
    own: Floats


def properties(spelled: Any) -> Properties:
    """The properties of W that a word, or a collection of words, stands for.

    Raises:
        InputError: there is no such word.

    >>> sorted(properties("doubly")), properties({"row", "column"}) == properties("doubly")
    (['column', 'row'], True)
    """
    words = [spelled] if isinstance(spelled, str) else spelled
    if not isinstance(words, Collection) or not words or not all(isinstance(w, str) and w in SPELLINGS for w in words):
        raise InputError(
            f"weights must be one of {', '.join(SPELLINGS)}, or a dict of them by channel, not {spelled!r}"
        )
    return frozenset().union(*(SPELLINGS[word] for word in words))


def by_channel(weights: Any, channels: Collection[str]) -> dict[str, Properties]:
    """The properties that the weights of each channel need, from an algorithm's ``weights``.

    Raises:
        InputError: an unknown word, or a dict whose keys are not the channels.

    >>> {name: sorted(needs) for name, needs in by_channel({"x": "row", "s": "column"}, ("x", "s")).items()}
    {'x': ['row'], 's': ['column']}
    """
    if not isinstance(weights, Mapping):
        return dict.fromkeys(channels, properties(weights))
    if set(weights) != set(channels):
        raise InputError(f"weights are given for {shown(weights)}, but the algorithm sends {shown(channels)}")
    return {name: properties(weights[name]) for name in channels}


def shown(names: Collection[Any]) -> str:
    """Names of channels in a message.

    >>> shown(("x", "s"))
    "'x', 's'"
    """
    return ", ".join(map(repr, names)) or "nothing"


def flaw(needs: Properties, receiver: Ints, sender: Ints, weight: Floats, own: Floats) -> str | None:
    """Which of these properties the weights lack, as text; None if they have all.
    ``own`` is the diagonal, ``weight``
    the rest.

    >>> flaw(properties("row"), np.array([0]), np.array([1]), np.array([0.5]), np.array([0.25, 1.0]))
    'row 0 of W sums to 0.75'
    """
    n = len(own)
    if "average" in needs:
        heard = np.bincount(receiver, minlength=n)
        far = np.abs(np.concatenate([weight, own]) - 1 / n).max()
        if heard.min() < n - 1:
            return f"agent {int(heard.argmin())} receives from {int(heard.min())} of {n - 1} others"
        return f"an entry of W differs from 1/{n} by {far:.3g}" if far > TOLERANCE else None
    if "row" in needs and (found := _off("row", own + np.bincount(receiver, weight, n))):
        return found
    if "symmetric" in needs:
        from scipy.sparse import coo_array

        W = coo_array((weight, (receiver, sender)), shape=(n, n)).tocsr()
        gap = abs(W - W.T).tocoo()
        if gap.nnz and gap.data.max() > TOLERANCE:
            i, j = int(gap.row[gap.data.argmax()]), int(gap.col[gap.data.argmax()])
            return f"W[{i}, {j}] = {W[i, j]:.6g} and W[{j}, {i}] = {W[j, i]:.6g}"
    return _off("column", own + np.bincount(sender, weight, n)) if "column" in needs else None


def _off(line: str, sums: Floats) -> str | None:
    """Which row or column does not sum to 1."""
    worst = int(np.abs(sums - 1).argmax())
    return f"{line} {worst} of W sums to {sums[worst]:.6g}" if abs(sums[worst] - 1) > TOLERANCE else None


def check_weights(
    needs: Properties, who: str, receiver: Ints, sender: Ints, weight: Floats, own: Floats, note: str = ""
) -> None:
    """Raise InputError if the weights lack a property that ``who`` needs (see ``flaw``). The message says what to do.

    >>> check_weights(properties("row"), "dgd", np.array([0]), np.array([1]), np.array([0.5]), np.array([0.25, 1.0]))
    Traceback (most recent call last):
    ...
    distopt.errors.InputError: dgd needs row-stochastic weights, but row 0 of W sums to 0.75; divide each row by its sum
    """
    found = flaw(needs, receiver, sender, weight, own)
    if found is not None:
        name, advice = next(_ADVICE[word] for word, each in reversed(SPELLINGS.items()) if each <= needs)
        raise InputError(f"{who} needs {name} weights, but {found}{note}; {advice}")
