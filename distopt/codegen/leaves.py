"""Trees of tensors as lists, which is what compiled functions are called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from distopt.codegen.recording import Unsupported


class Leaves:
    """The tensors of a tree, each once: a tensor at several places of the tree is one leaf of data."""

    def __init__(self, tree: Any) -> None:
        found, self._form = pytree.tree_flatten(tree)
        self.tensors: list[Tensor] = []
        self._places: list[Any] = []
        known: dict[int, int] = {}
        for each in found:
            if isinstance(each, Tensor):
                if id(each) not in known:
                    known[id(each)] = len(self.tensors)
                    self.tensors.append(each)
                self._places.append(known[id(each)])
            else:
                self._places.append((each,))  # no tensor: part of the code

    def form(self) -> Leaves:
        """The same without its tensors, for objects that would keep these alive too long."""
        other = Leaves(())
        other._form, other._places = self._form, self._places
        return other

    def tree(self, tensors: Sequence[Tensor]) -> Any:
        """The tree with others in their places."""
        leaves = [tensors[place] if isinstance(place, int) else place[0] for place in self._places]
        return pytree.tree_unflatten(leaves, self._form)

    def of(self, tree: Any) -> list[Tensor]:
        """The tensors of a tree that follows this one from round to round.

        Raises:
            Unsupported: it is nested otherwise, or holds a number where this one has a tensor or another number.
        """
        found, form = pytree.tree_flatten(tree)
        if form != self._form:
            raise Unsupported("the state has another form after a round")
        for each, place in zip(found, self._places, strict=True):
            if isinstance(each, Tensor) != isinstance(place, int):
                raise Unsupported("the state holds a number in one round and a tensor in another")
            if not isinstance(place, int) and repr(each) != repr(place[0]):
                raise Unsupported(
                    "the state holds a number that changes; tensors may change, and mix.t counts the rounds"
                )
        return [each for each in found if isinstance(each, Tensor)]

    @property
    def shape(self) -> Any:
        """What functions of such trees have in common."""
        places = tuple(place if isinstance(place, int) else repr(place[0]) for place in self._places)
        return str(self._form), places, tuple((tuple(each.shape[1:]), each.dtype) for each in self.tensors)
