"""Train models with the simulator's algorithms: ``torch.optim`` optimisers whose ranks are the agents."""

from distopt.optim.methods import DGD, EFSGD, DAdam, EFSignSGD, ExactDiffusion, GradientTracking, GTAdam
from distopt.optim.optimizer import Decentralized

__all__ = ["DGD", "EFSGD", "DAdam", "Decentralized", "EFSignSGD", "ExactDiffusion", "GTAdam", "GradientTracking"]
