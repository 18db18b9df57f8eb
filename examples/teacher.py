"""An animation of consensus: agents that repeatedly average with their neighbours, on two groups with a narrow bridge.

python examples/teacher.py consensus.gif [your graph, such as examples/class.edges]
"""

import sys

import numpy as np
from barbell import barbell
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

import distopt
from distopt.network.topology import build_topology
from distopt.report.network import layout, portrait


class Consensus:
    """x_{t+1} = W x_t: nobody looks at any cost."""

    channels = ("x",)

    def init(self, x):
        return ()

    def update(self, g, state, x, mix):
        return mix("x", x), ()


ROUNDS, STEP = 97, 3
out, *given = sys.argv[1:] or ["consensus.gif"]
if not out.endswith(".gif"):
    sys.exit(f"{out}: an animation is written as a .gif; give a name such as consensus.gif")
graph = build_topology(f"file:path={given[0]}", None, 0) if given else barbell(14, bridge=2)
n, places = graph.agents, layout(portrait(graph))
start = np.random.default_rng(0).uniform(size=(n, 1)) + (np.arange(n) >= n / 2)[:, None]  # the right group has more
run = distopt.simulate(graph, scenario="quadratic:dim=1", algorithm=Consensus(), rounds=ROUNDS, x0=start, record="x")
values, spread = run["x"][0, :, :, 0], run["consensus_error"][0]  # [rounds + 1, agents] and [rounds]
figure = Figure(figsize=(8.5, 3.4), dpi=80, layout="constrained")
network, curve = figure.subplots(1, 2)
for link in graph.edges:
    network.plot(*places[link].T, color="#8FA3B5", zorder=1)
dots = network.scatter(*places.T, s=260, c=values[0], cmap="viridis", zorder=2)
figure.colorbar(dots, ax=network, label="value of an agent")
network.set_axis_off()
rate, rounds, low = portrait(graph).second, np.arange(ROUNDS), max(1e-4, min(0.05, spread[-1]))
curve.semilogy(rounds, spread[-1] * rate ** (rounds - rounds[-1]), "--", color="#767676", label=f"{rate:.3f} per round")
curve.legend(title="what the spectral gap says", frameon=False)
curve.set(xlabel="round", ylabel="consensus error", ylim=(low, 1), title="how far the agents are apart")
(line,) = curve.semilogy(spread, color="#0072B2")


def frame(t):
    dots.set_array(values[t])
    line.set_data(np.arange(t + 1), spread[: t + 1])
    network.set_title(f"round {t}")


film = FuncAnimation(figure, frame, frames=range(0, ROUNDS, STEP))
film.save(out, PillowWriter(fps=6))
