"""Each rank has pictures of some digits only, and all learn all of them. They exchange signs of what changed in their models, and no pictures.

torchrun --nproc-per-node 2 examples/engineer.py
"""

import torch
import torch.distributed as dist
from torch import nn

from distopt.optim import GTAdam
from distopt.scenarios.network import Network

STEPS = 300
SIGNS = "choco:compressor=sign(segments=tensors),gamma=0.4"  # one bit a number, and a scale for each tensor

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)

data = Network().samples  # the digits that come with distopt
x, y = data.x.flatten(1), data.y
mine = torch.argsort(y, stable=True).tensor_split(world)[rank]  # of two ranks the first has 0 to 4


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def trained(model, optimizer):
    draw = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        batch = mine[torch.randint(len(mine), (32,), generator=draw)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model):
    return (model(data.x_test.flatten(1)).argmax(1) == data.y_test).double().mean().item()


alone, together = network(), network()
trained(alone, torch.optim.Adam(alone.parameters(), lr=0.01))
optimizer = GTAdam(together.named_parameters(), lr=0.01, topology="ring", channel=SIGNS)
trained(together, optimizer)
with optimizer.averaged(together):  # the mean of all ranks is the answer
    right = accuracy(together)

neighbours = min(2, world - 1)  # on a ring; each gets parameters and trackers in float32
exact = 2 * 32 * sum(each.numel() for each in together.parameters()) * STEPS * neighbours
if rank == 0:
    print(f"rank 0 alone, with Adam: accuracy {accuracy(alone):.1%}")
    print(f"{world} ranks, with GTAdam: accuracy {right:.1%}")
    print(f"sent by a rank: {optimizer.bits_sent / 8e6:.2f} MB, and {exact / 8e6:.2f} MB without compression")
dist.destroy_process_group()
