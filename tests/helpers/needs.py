"""What some tests need of the machine; without it they are skipped, for the reason that is printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.distributed

GPUS = torch.cuda.device_count()
NCCL = torch.distributed.is_nccl_available()

forks = pytest.mark.skipif(sys.platform != "linux", reason="local ranks are forked on Linux alone")
gpu = pytest.mark.skipif(GPUS < 1, reason="no GPU on this machine")


def gpus(count: int) -> pytest.MarkDecorator:
    """So many GPUs, a rank on each."""
    why = f"{GPUS} of {count} GPUs on this machine, {'with' if NCCL else 'without'} NCCL in torch"
    return pytest.mark.skipif(count > GPUS or not NCCL, reason=why)


def slow_but(quick: Any, cases: Iterable[Any]) -> list[Any]:
    """The cases of a test, all marked slow but one."""
    return [case if case == quick else pytest.param(*as_tuple(case), marks=pytest.mark.slow) for case in cases]


def as_tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
