"""Direction rules that take the round, in training: one rank is torch's own optimiser."""

from __future__ import annotations

import pytest
import torch
from helpers.trained import STEPS, Small, loss, row

from distopt.optim import Decentralized


@pytest.mark.parametrize("algorithm", ["dgd", "gt"])
@pytest.mark.parametrize("rule", ["adamw(decay=0.2)", "aida(p=2.0,q=1.0,eps_inside=false,decay=0.2)"])
def test_one_rank_is_the_adamw_of_torch(rule: str, algorithm: str) -> None:
    model, twin = Small().double(), Small().double()
    ours = Decentralized(model.named_parameters(), f"{algorithm}:direction={rule}", lr=0.01)
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.2, foreach=False)
    for t in range(STEPS):
        for one, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            loss(one, 0, t).backward()
            optimizer.step()
    assert torch.allclose(row(model), row(twin), rtol=0, atol=1e-13)
    assert (row(model) - row(Small().double())).abs().max() > 0.01
