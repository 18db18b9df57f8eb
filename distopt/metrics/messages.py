"""How often an agent has sent."""

from __future__ import annotations

from torch import Tensor

from distopt.metrics import Metric, Seen


class Messages(Metric):
    """Messages that each agent has sent up to and including round t, the mean over the agents.

    In a round it sends one message to each present neighbour: the payloads of all channels travel together. A link that
    fails carries none. With a server (ef_sgd, ef21, signsgd) it is one message to the server in a round. A round that sends no bits has no
    messages, and neither has an agent alone.
    """

    title = "Messages sent by each agent"
    unit = "messages"
    cumulative = True
    optional = True  # runs of earlier versions count none, and go on without

    def value(self, seen: Seen) -> Tensor:
        """What each round adds."""
        return seen.messages

    def absence(self, agents: int, dim: int) -> str:
        """It began with an earlier version."""
        return "the run was begun by a version that did not count them"
