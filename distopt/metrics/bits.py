"""What an agent has sent."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class Bits(Metric):
    """Bits that each agent has broadcast up to and including round t.

    The payload of a channel counts once, however many neighbours listen; an agent alone sends 0 bits. With a server (ef_sgd, ef21, signsgd,
    ...) it is a worker's message. The server's answer, 8 · itemsize · d bits (for a vote d signs), is not counted. With one message
    for each neighbour (powergossip) it is the sum over the links of an agent with the largest degree. A round without an exchange
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
