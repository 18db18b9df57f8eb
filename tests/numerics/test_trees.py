"""The default precision, which the threads of a process share."""

import itertools
import threading

import pytest
import torch

from distopt.numerics.trees import default_dtype


class Within:
    """A thread that enters, waits to be let go and leaves."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.entered, self.free = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._live, args=(dtype,))
        self.thread.start()
        assert self.entered.wait(30)

    def _live(self, dtype: torch.dtype) -> None:
        with default_dtype(dtype):
            self.entered.set()
            self.free.wait(30)

    def leave(self) -> None:
        self.free.set()
        self.thread.join()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_threads_leave_the_precision_as_it_was_in_whichever_order_they_leave(order: tuple[int, ...]) -> None:
    assert torch.get_default_dtype() == torch.float32
    threads = [Within(torch.float64) for _ in order]
    for k in order:
        assert torch.get_default_dtype() == torch.float64  # as long as one is within
        threads[k].leave()
    assert torch.get_default_dtype() == torch.float32


def test_a_thread_that_outlives_the_one_that_began_first_changes_nothing_later() -> None:
    with default_dtype(torch.float64):
        other = Within(torch.float64)
    assert torch.get_default_dtype() == torch.float64
    with default_dtype(torch.float32):
        assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_dtype() == torch.float64
    other.leave()
    assert torch.get_default_dtype() == torch.float32


def test_nested_precisions_come_back_one_by_one_whatever_is_set_or_raised_within() -> None:
    with default_dtype(torch.float64):
        torch.set_default_dtype(torch.bfloat16)
        with pytest.raises(ValueError, match="within"), default_dtype(torch.float16):
            raise ValueError("within")
        assert torch.get_default_dtype() == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32
