"""The communication hook for DistributedDataParallel, by the name under which training scripts import it."""

from distopt.optim.ddp import ErrorFeedbackState, error_feedback_hook

__all__ = ["ErrorFeedbackState", "error_feedback_hook"]
