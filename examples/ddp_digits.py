"""A training script with gradients sent as signs. Its data come with scikit-learn (pip install scikit-learn).

torchrun --nproc-per-node 2 examples/ddp_digits.py --hook sign
torchrun --nproc-per-node 2 examples/ddp_digits.py --hook none
"""

import argparse
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distopt.ddp import ErrorFeedbackState, error_feedback_hook

asked = argparse.ArgumentParser()
compressors = '"none", or a compressor: sign, "topk(fraction=0.01)", ... [default: sign]'
asked.add_argument("--hook", default="sign", metavar="COMPRESSOR", help=compressors)
asked.add_argument("--epochs", type=int, default=6)
options = asked.parse_args()

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, world = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
torch.manual_seed(0)

data = load_digits()
order = torch.randperm(len(data.target))
images = torch.tensor(data.images, dtype=torch.float32)[order].unsqueeze(1).to(device) / 16
labels = torch.tensor(data.target)[order].to(device)
mine = torch.arange(rank, 1400, world)  # the others are for the test

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(512, 10),
)
shared = DistributedDataParallel(model.to(device))
state = ErrorFeedbackState(compressor="identity" if options.hook == "none" else options.hook)
shared.register_comm_hook(state, error_feedback_hook)  # the one line that changes

optimizer = torch.optim.SGD(shared.parameters(), lr=0.02, momentum=0.9)
for _ in range(options.epochs):
    for batch in mine[torch.randperm(len(mine))].split(16):
        optimizer.zero_grad()
        nn.functional.cross_entropy(shared(images[batch]), labels[batch]).backward()
        optimizer.step()

with torch.no_grad():
    accuracy = (shared(images[1400:]).argmax(1) == labels[1400:]).double().mean()
if rank == 0:
    print(f"{options.hook}: accuracy {100 * accuracy:.1f} %, {state.bytes_sent:,} bytes of gradients sent by a rank")
dist.destroy_process_group()
