"""GT-STORM: gradient tracking fed by a recursive estimate of the gradient, with Super-Adam's step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from distopt.directions.superadam import denominator
from distopt.optional import AlgorithmDefaults
from distopt.protocols import Mix, Schedule
from distopt.ranges import choice, flag, fraction, positive, step_size
from distopt.schedules import rate

Form = Literal["cta", "atc"]


class GTStormState(NamedTuple):
    """What GT-STORM carries.

    Attributes:
        s: tracker [..., n, d]; its mean over all agents is that of the estimates. Without tracking it is empty.
        estimate: G, the agent's estimate of its gradient [..., n, d].
        x: where the agents stood a round ago [..., n, d].
        v: second moment of the gradients [..., n, d]; empty unless the step adapts to it.
        steps: how many rounds there were [..., n, 1].
        power: beta^t [..., n, 1].
    """

    s: Tensor | tuple[()]
    estimate: Tensor
    x: Tensor
    v: Tensor | tuple[()]
    steps: Tensor
    power: Tensor


@dataclass(frozen=True)
class GTStorm(AlgorithmDefaults):
    """Gradient tracking of STORM's estimates, as GT-HSGD [xin2021], with the step of Super-Adam for tau = 1 [huang2021].

        mu_t = k / (m + t)^(1/3),    al_t = min(c mu_{t-1}^2, 0.99)                                     t = 1, 2, ...
        G_t = g_t + (1 - al_t) (G_{t-1} - g_t(x_{t-1}))               G_1 = g_1          STORM [cutkosky2019]
        s_t = W_t s_{t-1} + G_t - G_{t-1}                             s_0 = G_0 = 0
        v_t = beta v_{t-1} + (1 - beta) g_t^2                         v_0 = 0
        H_t = sqrt(v_t / (1 - beta^t)) + lam                          1 unless ``adaptive``
        x_{t+1} = W_t x_t - lr mu_t s_t / H_t                         cta; atc: W_t (x_t - lr mu_t s_t / H_t)

    x_t [..., n, d] are the agents' points. Row i of g_t [..., n, d] is grad f_{i,t}(x_{i,t}). g_t(x_{t-1}) is the gradient of the SAME costs
    f_{i,t}, on the same samples, at the points of the round before: a second gradient in every round. G_t, s_t, v_t and H_t are [..., n, d],
    W_t is doubly stochastic, lr > 0 a number, a schedule or a tensor [R, 1, 1]. Noise that is the same at both points cancels in the
    difference. So the error of G_t falls with al_t, without large batches. Where nothing is random and costs do not change, G_t is the
    gradient.

    The mean of s_t equals the mean of the estimates G_t and not of the gradients. So there is no ``tracks``: the metric ``tracker_invariant``
    compares with gradients. GT-HSGD has constant lr mu and al and H = 1. The paper of GT-HSGD has no H_t. Here it comes from each agent's own
    gradients, as in Super-Adam. Agents' steps then differ in scale, but all vanish where s does. One agent alone is Super-Adam. Defaults are
    as in ``superadam``. In the first round the second gradient is taken but not used, so that all rounds take the same number. Changing
    costs leave an error in G_t even without randomness: it remembers old costs for about 1 / al_t rounds.

    With ``tracking=False`` only x travels, and the agent's own G_t replaces s_t: this is the algorithm ``storm``.

    Raises:
        InputError: ``lr``, ``k``, ``m``, ``c`` or ``lam`` not positive, ``beta`` outside [0, 1), or an unknown ``form``.

    >>> import torch
    >>> from distopt.algorithms.gt_storm import GTStorm
    >>> from distopt.network.net import Rehearsal
    >>> storm, x, a = GTStorm(lr=2.0, adaptive=False), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [5.0]]])
    >>> mean, state = lambda name, z: z.mean(-2, keepdim=True).expand_as(z), storm.init(x)
    >>> for _ in range(100):  # f_i(x) = (x - a_i)^2 / 2: the optimum is the mean, 3
    ...     x, state = storm.update(x - a, state, x, Rehearsal(mean, x, grad=lambda y: y - a))
    >>> round(x[0, 0, 0].item(), 4)
    3.0
    """

    lr: float | Schedule = 0.01
    form: Form = "cta"
    k: float = 1.0
    m: float = 100.0
    c: float = 5.0
    beta: float = 0.999
    lam: float = 1e-3
    adaptive: bool = True
    tracking: bool = True

    def __post_init__(self) -> None:
        step_size("gt_storm", self.lr)
        choice("gt_storm", get_args(Form), form=self.form)
        positive("gt_storm", k=self.k, m=self.m, c=self.c, lam=self.lam)
        fraction("gt_storm", beta=self.beta)
        flag("gt_storm", adaptive=self.adaptive, tracking=self.tracking)

    @property
    def channels(self) -> tuple[str, ...]:
        """What travels."""
        return ("x", "s") if self.tracking else ("x",)

    @property
    def weights(self) -> str:
        """What W must be: trackers need columns that sum to one, too."""
        return "doubly" if self.tracking else "row"

    def init(self, x: Tensor) -> GTStormState:
        one, zero = torch.ones_like(x[..., :1]), torch.zeros_like(x)
        return GTStormState(
            zero.clone() if self.tracking else (),
            zero,
            x.clone(),
            zero.clone() if self.adaptive else (),
            torch.zeros_like(one),
            one,
        )

    def update(self, g: Tensor, state: GTStormState, x: Tensor, mix: Mix) -> tuple[Tensor, GTStormState]:
        before = self._mu(state.steps)
        share = (self.c * before * before).clamp(max=0.99)
        again = mix.grad(state.x)
        estimate = torch.where(state.steps > 0, g + (1 - share) * (state.estimate - again), g)
        s = mix("s", state.s) + estimate - state.estimate if isinstance(state.s, Tensor) else ()
        steps, power = state.steps + 1, self.beta * state.power
        d, v = self._mu(steps) * (s if isinstance(s, Tensor) else estimate), state.v
        if isinstance(v, Tensor):
            v = self.beta * v + (1 - self.beta) * g * g
            d = d / denominator(v, power, self.lam)
        step = rate(self.lr, mix) * d
        moved = mix("x", x) - step if self.form == "cta" else mix("x", x - step)
        return moved, GTStormState(s, estimate, x.clone(), v, steps, power)

    def _mu(self, steps: Tensor) -> Tensor:
        """The step mu after so many rounds. torch's own power function would give other bits if rows are split among workers."""
        return self.k / torch.exp(torch.log(self.m + steps) / 3)
