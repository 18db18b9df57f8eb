"""Scenarios that classify rows of data by logistic or softmax regression."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from distopt.optional import ScenarioDefaults
from distopt.scenarios._logistic import (
    last_label_accuracy,
    logistic_accuracy,
    logistic_grad,
    logistic_hessian,
    logistic_loss,
    softmax_accuracy,
    softmax_grad,
    softmax_hessian,
    softmax_loss,
)


def two_classes(x: Tensor, X: Tensor) -> bool:
    """Whether x has one number for each feature, and not for each feature and class. Shapes say so: a compiled round looks at nothing else."""
    return x.shape[-1] == X.shape[-1]


class Classified(ScenarioDefaults):
    """Costs of rows of data: logistic ones for two classes, -1.0 and 1.0, else softmax ones.

    For a frozen dataclass with the field ``l2`` whose batches begin with the rows X, their labels y and their weights w.
    """

    l2: float
    row_weights: ClassVar[str] = "w"

    def loss(self, x: Tensor, b: Any) -> Tensor:
        X, y, w = b[:3]
        return (logistic_loss if two_classes(x, X) else softmax_loss)(x, X, y, w, self.l2)

    def grad(self, x: Tensor, b: Any) -> Tensor:
        X, y, w = b[:3]
        return (logistic_grad if two_classes(x, X) else softmax_grad)(x, X, y, w, self.l2)

    def hessian(self, x: Tensor, b: Any) -> Tensor:
        X, y, w = b[:3]
        return (logistic_hessian if two_classes(x, X) else softmax_hessian)(x, X, y, w, self.l2)

    def linear_rows(self, b: Any) -> tuple[Tensor, Tensor, Tensor, float]:
        X, y, w = b[:3]
        return X, y, w, self.l2

    def accuracy(self, x: Tensor, b: Any) -> Tensor:
        """The fraction of all rows classified correctly."""
        X, y = b[:2]
        every = torch.ones_like(y, dtype=torch.bool)
        return (logistic_accuracy if two_classes(x, X) else softmax_accuracy)(x, X, y, every)


class Arriving(Classified):
    """The same where rows arrive.

    After X, y and w batches have ``fresh``, which rows are of this round, and ``last``, the agent's newest label before it.
    """

    def accuracy(self, x: Tensor, b: Any) -> Tensor:
        """The fraction of the rows that arrived in this round classified correctly."""
        X, y, _, fresh = b[:4]
        return (logistic_accuracy if two_classes(x, X) else softmax_accuracy)(x, X, y, fresh)

    def persistence(self, b: Any) -> Tensor:
        """The same for the prediction that all are as the agent's newest row before this round."""
        _, y, _, fresh, last = b[:5]
        return last_label_accuracy(last, y, fresh)
