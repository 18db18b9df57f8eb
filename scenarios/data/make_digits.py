"""Make digits.npz from the handwritten digits that scikit-learn ships: ``python make_digits.py``. See README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

if __name__ == "__main__":
    digits = load_digits()
    np.savez_compressed(
        Path(__file__).parent / "digits.npz",
        pixels=digits.data.astype(np.uint8),  # [1797, 64], 0..16
        label=digits.target.astype(np.uint8),
    )
