"""The optimisers of the papers: ``Decentralized`` with one algorithm each, whose constants are keywords."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distopt.algorithms.dadam import dadam
from distopt.algorithms.dgd import DGD as DGDAlgorithm
from distopt.algorithms.ef_sgd import EFSGD as EFSGDAlgorithm
from distopt.algorithms.exact_diffusion import ExactDiffusion as ExactDiffusionAlgorithm
from distopt.algorithms.gt import GT, Form
from distopt.algorithms.gtadam import gtadam
from distopt.catalog.parts import part
from distopt.compressors.sign import Sign
from distopt.optim.optimizer import Decentralized


class GTAdam(Decentralized):
    """GTAdam [carnevale2023]: Adam's moments of the tracked gradient (see ``distopt.algorithms.gtadam``).

        s_t = W_t s_{t-1} + g_t - g_{t-1}
        m_t = b1 m_{t-1} + (1 - b1) s_t,    v_t = min(b2 v_{t-1} + (1 - b2) s_t^2, cap)
        x_{t+1} = W_t x_t - lr m_t / sqrt(v_t + eps)

    x_t and s_t travel, both known when ``step()`` ends, so they are sent ahead. No bias is corrected: the first step is 3.16 lr. ``settings``
    are those of ``Decentralized``.

    >>> import torch
    >>> from distopt.optim import GTAdam
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = GTAdam(model.named_parameters(), lr=1e-3, b2=0.99)
    >>> optimizer.param_groups[0]["b2"]
    0.99
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        cap: float = 1e6,
        form: Form = "cta",
        **settings: Any,
    ) -> None:
        super().__init__(params, gtadam(lr, b1, b2, eps, cap, form=form), **settings)


class GradientTracking(Decentralized):
    """Gradient tracking [nedic2017] [dilorenzo2016]: x_{t+1} = W_t x_t - lr s_t (see ``distopt.algorithms.gt``)."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, *, form: Form = "cta", **settings: Any) -> None:
        super().__init__(params, GT(lr, form), **settings)


class DGD(Decentralized):
    """Decentralised gradient descent [nedic2009] [chen2012]: x_{t+1} = W_t x_t - lr g_t (see ``distopt.algorithms.dgd``)."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, *, form: Form = "cta", **settings: Any) -> None:
        super().__init__(params, DGDAlgorithm(lr, form), **settings)


class DAdam(Decentralized):
    """DADAM [nazari2022]: Adam's moments of the agent's own gradient (see ``distopt.algorithms.dadam``)."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        cap: float | None = 1e6,
        b3: float | None = None,
        form: Form = "cta",
        **settings: Any,
    ) -> None:
        super().__init__(params, dadam(lr, b1, b2, eps, cap, b3=b3, form=form), **settings)


class ExactDiffusion(Decentralized):
    """Exact diffusion, D^2 [yuan2019] [tang2018] (see ``distopt.algorithms.exact_diffusion``). Its message is made within ``step()``."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, **settings: Any) -> None:
        super().__init__(params, ExactDiffusionAlgorithm(lr), **settings)


class EFSGD(Decentralized):
    """EF-SGD [karimireddy2019]: compressed steps with error feedback, and their average (see ``distopt.algorithms.ef_sgd``).

    All ranks are neighbours, unless the topology is a star. ``compressor`` is a spec or an object.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        compressor: Any = "topk(fraction=0.01)",
        topology: Any = "complete",
        **settings: Any,
    ) -> None:
        made = part("compressors", compressor, ("encode", "decode", "bits"), {})
        super().__init__(params, EFSGDAlgorithm(lr, made), topology=topology, **settings)


class EFSignSGD(EFSGD):
    """EF-signSGD [karimireddy2019]: signs of the steps with error feedback, and their average (see ``distopt.algorithms.ef_signsgd``).

    ``segments="tensors"`` gives each tensor of the model a scale of its own, as the paper's experiments do.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, *, segments: str = "tensors", **settings: Any) -> None:
        super().__init__(params, lr, compressor=Sign(segments), **settings)
