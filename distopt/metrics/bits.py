"""What an agent has sent."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class Bits(Metric):
    """Bits that each agent has broadcast up to and including round t.

    The payload of a channel counts once, however many neighbours listen; an agent alone sends 0 bits. Of workers around an average (ef_sgd,
    ef21, signsgd, ...) it is a worker's message; the server's answer to it, 8 · itemsize · d bits (of a vote d signs), is not in it. Of
    messages for one neighbour (powergossip) it is the sum over the links of an agent of the largest degree. A round without an exchange
    (prox_skip) has none.
    """

    title = "Bits broadcast by each agent"
    unit = "bits"
    cumulative = True
    head = ("bits per", "agent")
    column = 5
    take = "last"
    key = "bits_per_agent"

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        return seen.same(seen.bits) * seen.exchanges
