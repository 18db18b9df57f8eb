"""A metric of one's own: distopt simulate ring --agents 8 --scenario sea --metric examples/own_cost.py"""


class OwnCost:
    """(1/N) Σ_i f_i(x_i): the mean cost of the agents, each at its own point."""

    unit = "cost"

    def term(self, view):
        return view.scenario.loss(view.x, view.data)  # [R, n]: what each agent adds
