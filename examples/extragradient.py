"""Extragradient descent with a falling step: an algorithm that asks for the round's number and for a second gradient."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Extragradient:
    """x_{t+1} = W x_t - lr_t grad f_t(x_t - lr_t g_t), where lr_t = lr / (1 + t / shift)."""

    lr: float = 0.1
    shift: float = 10.0
    channels = ("x",)

    def init(self, x):
        return ()

    def update(self, g, state, x, mix):
        lr = self.lr / (1 + mix.t / self.shift)
        ahead = mix.grad(x - lr * g)  # this round's costs, at another point
        return mix("x", x) - lr * ahead, ()
