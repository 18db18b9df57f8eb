"""Find the step sizes of ``images.RATES``: ``python -m distopt.reproduce.tune`` prints them.

The paper's grid, nine values from 1e-5 to 10; batch size 128; the mean over two seeds of the best epoch's accuracy on a fifth of the
training part, which the runs do not see.
"""

from __future__ import annotations

import click
import numpy as np

from distopt.reproduce.images import EPOCHS, RATES, TUNED_AT, Training, pictures

GRID = np.geomspace(1e-5, 10, 9)


def main() -> None:
    """Print each accuracy, and the best step sizes."""
    for name, images in pictures(None, click.echo).items():
        for method in RATES["digits"]:
            reached = {
                float(f"{lr:.2g}"): float(
                    np.mean(
                        [
                            max(
                                Training(
                                    images.held_out(), method, float(f"{lr:.2g}"), TUNED_AT, seed, EPOCHS[name]
                                ).run()["x"]
                            )
                            for seed in (0, 1)
                        ]
                    )
                )
                for lr in GRID
            }
            shown = ", ".join(f"{lr:g}: {100 * value:.1f} %" for lr, value in reached.items())
            click.echo(f"{name} {method}: {max(reached, key=reached.__getitem__):g}   ({shown})")


if __name__ == "__main__":
    main()
