"""A compressor of one's own: stochastic binary quantisation (Suresh et al., 2017, arXiv:1611.00429)."""

import torch

from distopt.compressors import flags, signs, size


class StochasticBinary:
    """Each number of a row becomes the row's largest with the probability (z - low) / (high - low), and else its smallest.

    A bit travels for each number, and low and high for each row. The mean is z.
    """

    def words(self, d):
        return d  # uniform numbers for a row

    def encode(self, z, u):
        low, high = z.amin(-1, keepdim=True), z.amax(-1, keepdim=True)
        return flags(low + u * (high - low) < z), torch.cat([low, high], -1)

    def decode(self, payload, d, dtype, u=None):
        up, ends = payload
        low, high = ends.to(dtype).split(1, -1)
        return torch.where(signs(up, d, torch.ones_like(low)) > 0, high, low)

    def bits(self, d, itemsize):
        return size(d, 1) + 2 * 8 * itemsize

    def delta(self, d):
        return None  # it is no contraction

    def omega(self, d):
        return d / 2  # E |C(z) - z|^2 <= d / 2 |z|^2
