"""The density phi of what EF-signSGD compresses during training, which is its contraction [karimireddy2019]."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distopt.numerics.random import Key
from distopt.reproduce import Results, Say
from distopt.reproduce.datasets import Samples
from distopt.reproduce.images import BATCHES, EPOCHS, Training, pictures, scaled
from distopt.reproduce.store import Store

PAPER_FLOOR = 0.134
"""What phi stays above while VGG-19 trains, in the notebooks of the authors' repository."""
POINTS = 200  # in a curve


def density(z: Tensor, segments: str = "") -> Tensor:
    """|z|_1^2 / (d |z|_2^2) of rows z [..., d], in (0, 1], what a scaled sign keeps of |z|_2^2.

    With ``segments``, as of ``Sign``, each part z_l has a scale of its own: sum_l (|z_l|_1^2 / d_l) / |z|_2^2.

    >>> density(torch.tensor([1.0, 1.0, 0.0, 0.0])).item(), density(torch.tensor([1.0, 1.0, 0.0, 0.0]), "2+2").item()
    (0.5, 1.0)
    """
    parts = torch.split(z, [int(size) for size in segments.split("+")], -1) if segments else (z,)
    kept = torch.stack([part.abs().sum(-1) ** 2 / part.shape[-1] for part in parts]).sum(0)
    found: Tensor = kept / z.square().sum(-1)
    return found


def measure(store: Store, data: Path | None, say: Say) -> Results:
    """For pictures and batch sizes: phi of lr g + e, of whole rows and by tensor, and of g: along thinned steps, and over all steps."""
    out = []
    for name, images in pictures(data, say).items():
        for batch in BATCHES:
            asked = {"lr": scaled(name, "EF-signSGD", batch), "epochs": EPOCHS[name], "points": POINTS}
            training = Training(images, "EF-signSGD", asked["lr"], batch, 0, EPOCHS[name])
            what = {"data": name, "batch": batch}
            out.append(what | store.get(f"density-{name}-{batch}", asked, partial(_one, training, images, say)))
    return out


def _one(training: Training, images: Samples, say: Say) -> dict[str, Any]:
    scenario, key = training.scenario, Key(0, range(1), range(1), 1)
    found: dict[str, list[Tensor]] = {"whole": [], "by tensor": [], "gradient": []}
    for t, ((x, e), lr) in enumerate(
        zip(training.points(), training.lrs(), strict=False)
    ):  # no step from the last point
        g = scenario.grad(x, scenario.batch(torch.tensor([[[[t]]]]), key)[0])
        assert e is not None  # error feedback remembers
        p = (lr * g + e).double()
        found["whole"].append(density(p).squeeze())
        found["by tensor"].append(density(p, training.network.segments).squeeze())
        found["gradient"].append(density(g.double()).squeeze())
    say(f"density: {images.name}, batch {training.batch}: never below {min(found['whole']):.3f}")
    length = len(found["whole"])
    marks = torch.linspace(0, length - 1, min(length, POINTS)).round().long()
    values = {name: torch.stack(each) for name, each in found.items()}
    return {
        "epoch": (marks / training.per_epoch).tolist(),
        **{name: each[marks].tolist() for name, each in values.items()},
        "above": float((values["whole"] > PAPER_FLOOR).double().mean()),
        "least": {name: float(each.min()) for name, each in values.items()},
        "mean": {name: float(each.mean()) for name, each in values.items()},
    }


def rows(results: Results) -> list[dict[str, Any]]:
    """A row for each kind of pictures and batch size."""
    return [
        {
            "data": each["data"],
            "batch": each["batch"],
            **{
                f"{short} {word}": each[key][name]
                for name, short in (("whole", "phi"), ("by tensor", "by tensor"), ("gradient", "phi(g)"))
                for word, key in (("least", "least"), ("mean", "mean"))
            },
            "paper": f"phi > {PAPER_FLOOR}",
            "steps above %": 100 * each["above"],
            "holds": "yes" if each["least"]["whole"] > PAPER_FLOOR else "NO",
        }
        for each in results
    ]
