"""How long the rounds would have lasted on a real network."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class SimulatedSeconds(Metric):
    """Seconds up to and including round t by the virtual clock of the experiment (`--clock`).

    Only a run with a clock has it. A round lasts compute times its gradients, plus latency + bits / bandwidth of its slowest message. A round
    that sends no messages (prox_skip) lasts its gradients alone. See [clock.md](clock.md).
    """

    title = "Simulated seconds"
    unit = "seconds"
    cumulative = True
    optional = True  # there is none without a clock
    take = "last"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        return seen.seconds

    def absence(self, agents: int, dim: int) -> str:
        """The experiment has no clock."""
        return "the experiment has no clock; give one, as in clock='compute=1e-3,latency=1e-3,bandwidth=1e9'"
