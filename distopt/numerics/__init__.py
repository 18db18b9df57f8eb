"""GridScalar that have the same bits everywhere: addressed randomness, sums in a fixed order, trees of tensors."""
