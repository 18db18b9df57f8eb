"""The experiments of "Error feedback fixes SignSGD and other gradient compression schemes" [karimireddy2019]."""

from __future__ import annotations

from distopt.reproduce import Part, counterexamples, density, images, least_squares

PARTS = {
    "counterexamples": Part(
        counterexamples.measure,
        counterexamples.rows,
        "counterexamples",
        "signSGD fails on three small problems whatever its step size, EF-signSGD does not (the paper's counterexamples)",
    ),
    "least-squares": Part(
        least_squares.measure,
        least_squares.rows,
        "least_squares",
        "signs leave the span of the data and predict badly, error feedback returns (the authors' script and notebook)",
    ),
    "images": Part(
        images.measure,
        images.rows,
        "images",
        "EF-signSGD stays close to SGDM at small batches, where scaled signs without memory collapse (the authors' notebooks, on CIFAR; "
        "here smaller pictures and a smaller network)",
    ),
    "density": Part(
        density.measure,
        density.rows,
        "density",
        f"what EF-signSGD compresses stays dense: phi(lr g + e) > {density.PAPER_FLOOR} for VGG-19 on CIFAR-10 (the authors' notebooks)",
    ),
}
