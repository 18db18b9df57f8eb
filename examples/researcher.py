"""A method of one's own, from the class to the report: checked, tuned like its rivals, compared with them on other seeds, written up.

python examples/researcher.py
"""

import os
from dataclasses import dataclass

import distopt
from distopt.checks import check_algorithm
from distopt.report import page

ME = os.path.relpath(__file__)
OUT = "runs/researcher"


@dataclass(frozen=True)
class MomentumDiffusion:
    """Agents send where a step with a heavy-ball term would take them, and average that.

    x_{t+1} = W (x_t - lr g_t + beta (x_t - x_{t-1}))
    """

    lr: float = 0.05
    beta: float = 0.6
    channels = ("x",)

    def init(self, x):
        return x.clone()  # x_{t-1}

    def update(self, g, before, x, mix):
        return mix("x", x - self.lr * g + self.beta * (x - before)), x


if __name__ == "__main__":
    check_algorithm(MomentumDiffusion())
    problem = {"agents": 8, "scenario": "moving_target:period=200", "rounds": 200}
    tuned = distopt.tune("ring", algorithm=[ME, "gt", "dgd"], trials=3, report_trials=10, out=OUT, **problem)
    print("tuned:", *tuned.winners.values())

    runs = distopt.simulate("ring", algorithm=[*tuned.winners.values()], trials=10, seed=1000, **problem)
    verdict = distopt.compare(runs)  # on seeds that tuning has not seen
    verdict.write(f"{OUT}/compared")
    print(verdict)
    print("the report:", page.write(runs, OUT))
