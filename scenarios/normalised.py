"""Any scenario with costs that do not depend on the length of the point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distopt.errors import InputError
from distopt.numerics.random import Key
from distopt.optional import ScenarioDefaults, completed, entry
from distopt.protocols import Scenario
from distopt.scenarios._around import Around
from distopt.scenarios._ranges import real, shown
from distopt.scenarios.digits_mlp import DigitsMlp

usual = DigitsMlp()


@dataclass(frozen=True)
class Normalised(Around, ScenarioDefaults):
    """The costs of another scenario on a sphere, as those of networks with normalisation layers are [lyu2022].

        h_{i,t}(x) = f_{i,t}(r x / |x|),    grad h(x) = r/|x| (I - u u') grad f(r u),    u = x / |x|

    f_{i,t} are the scenario's costs and r is ``radius``. h is the same at all lengths of x [R, n, d], so its gradient is orthogonal to x and grows
    like 1 / |x|: gradient descent makes x longer, and weight decay shorter. Accuracies are those at r x / |x|. x must not be 0. Minimisers are
    rays, so none is sought (``comparator = False``). Agents start where the scenario says, or else at a random point of the sphere, the same for all.

    ``normalised(digits_mlp,radius=8)`` is ``digits_mlp:normalised=8``, bit for bit.

    Attributes:
        scenario: the scenario whose costs are used.
        radius: r, radius of the sphere.

    Raises:
        InputError: ``scenario`` is none, restricts its points or is a game; ``radius`` is not above 0 or above 1e100.

    >>> from distopt.scenarios.quadratic import Quadratic
    >>> s, key = Normalised(Quadratic(dim=3), radius=2.0), Key(0, range(1), range(1), total=1)
    >>> b, x = s.batch(torch.zeros(1, 1, 1, 1, dtype=torch.int64), key), torch.ones(1, 1, 3, dtype=torch.float64)
    >>> s.loss(x, b).item() == s.loss(4 * x, b).item(), abs((s.grad(x, b)[0] * x).sum().item()) < 1e-12
    (True, True)
    """

    scenario: Scenario[Any] = usual  # type: ignore[assignment]  # its dim cannot be set
    radius: float = 1.0
    comparator: ClassVar[bool] = False

    def __post_init__(self) -> None:
        given: Any = self.scenario
        if isinstance(given, type) or any(not hasattr(given, need) for need in ("batch", "loss", "grad", "dim")):
            raise InputError(f"normalised: scenario must be an object such as Quadratic(), got {shown(given)}")
        given = completed(ScenarioDefaults, given)
        object.__setattr__(self, "scenario", given)
        real(self, "radius", above=True)
        name = entry(given)
        if given.project is not None:
            raise InputError(
                f"normalised: {name} restricts its points, and a sphere would be another restriction; use another scenario"
            )
        if given.prox is not None:
            raise InputError(
                f"normalised: the costs of {name} have a part without a gradient, which cannot be put on a sphere; use a scenario without"
            )
        if given.equilibrium is not None:
            raise InputError(
                f"normalised: {name} is a game, which has no cost to put on a sphere; use a scenario whose costs are minimised"
            )

    @property
    def accuracy(self) -> Any:
        """The accuracies at r x / |x|, where the scenario has any."""
        return None if self._inner.accuracy is None else self._accuracy

    def start(self, key: Key) -> Tensor:
        """The scenario's start, or a random point of the sphere [R, 1, d]."""
        if self._inner.start is not None:
            given: Tensor = self._inner.start(key)
            return given
        return self._scaled(key.shared.normal("normalised.start", self.dim)[0])[0]

    def loss(self, x: Tensor, b: Any) -> Tensor:
        found: Tensor = self._inner.loss(self._scaled(x)[0], b)
        return found

    def grad(self, x: Tensor, b: Any) -> Tensor:
        y, length = self._scaled(x)
        g, unit = self._inner.grad(y, b), x / length
        found: Tensor = self.radius / length * (g - (g * unit).sum(-1, keepdim=True) * unit)
        return found

    def _accuracy(self, x: Tensor, b: Any) -> Tensor:
        found: Tensor = self._inner.accuracy(self._scaled(x)[0], b)
        return found

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """r x / |x| [R, n, d], and |x| [R, n, 1]."""
        length = torch.sqrt((x * x).sum(-1, keepdim=True))
        return self.radius * (x / length), length
