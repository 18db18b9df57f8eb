"""Train a model on several ranks without a coordinator. It is written to be read, copied and changed.

    torchrun --nproc-per-node 4 launch/train.py --optimizer gtadam --topology ring --channel sign
    torchrun --nproc-per-node 4 launch/train.py --model cnn --data mnist --alpha 0.1 --out runs/cnn
    torchrun --nproc-per-node 4 launch/train.py --optimizer ddp-adam       # to compare with
    python launch/train.py                                                 # one rank alone

Every rank has its own share of the data. With --out it writes checkpoints, curve.csv, curve.png, model.pt (the mean of all ranks) and, where the
package tensorboard is installed, its files. The same command then continues from the last checkpoint. docs/training-script.md explains
it.
"""

import argparse
import csv
import math
import os
import shutil
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distopt.catalog import registry
from distopt.errors import InputError, RunError
from distopt.optim import Decentralized
from distopt.runs.signals import Stop, stopping

LOCAL = int(os.environ.get("LOCAL_RANK", "0"))  # which rank of this machine
COLUMNS = ("step", "epoch", "loss", "accuracy", "consensus_error", "bits_sent", "seconds_waiting", "seconds")
SHORT = {  # short names for specs; in both, every tensor of the model has its own scale
    "sign": "choco:compressor=sign(segments=tensors),gamma=0.4",
    "ef_signsgd": "ef_signsgd:segments=tensors",
}
DDP = {"ddp-adam": torch.optim.Adam, "ddp-sgd": torch.optim.SGD}
FREE = ("steps", "epochs", "out", "report_every", "checkpoint_every")  # options that may change when a run continues


def ask(words: list[str]) -> argparse.Namespace:
    """The options."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = asked.add_argument
    add("--model", default="mlp", help="mlp, cnn, transformer, or FILE.py:NAME, a function that returns a module [mlp]")
    add("--data", default="digits", help="digits, mnist (MNIST-5k), or FILE.py:NAME, a function that returns (x, y)")
    add("--alpha", default="0.5", help="of the Dirichlet shares: 0.1 gives ranks few classes, inf all of them [0.5]")
    add("--batch", type=int, default=32, help="samples of a rank in a step [32]")
    add("--epochs", type=float, default=20, help="passes over the data by all ranks together [20]")
    add("--steps", type=int, help="steps of each rank, in place of epochs")
    add("--optimizer", default="gtadam", help="an algorithm (`distopt list algorithms`), ddp-adam or ddp-sgd [gtadam]")
    add("--lr", type=float, help="step size [0.01, or what the algorithm says]")
    add("--schedule", choices=["constant", "cosine"], default="constant", help="of the step size [constant]")
    add("--clip", type=float, help="the largest norm that a rank's gradient may have")
    add("--every", type=int, default=1, help="an exchange in every so many steps; the others are local [1]")
    add("--topology", default="ring", help="who hears whom (`distopt list topologies`) [ring]")
    add("--channel", default="exact", help="how messages travel (`distopt list channels`), or sign [exact]")
    add("--seed", type=int, default=0, help="of shares, batches and what compressors draw [0]")
    add("--out", type=Path, help="the folder to write to, and to go on from")
    add("--report-every", type=int, metavar="STEPS", help="test, print and draw [an epoch]")
    add("--checkpoint-every", type=int, metavar="STEPS", help="[10 epochs]")
    return asked.parse_args(words)


def build(options: argparse.Namespace, model: nn.Module) -> tuple[nn.Module, Any]:
    """The model as the loop calls it, and its optimiser."""
    if options.optimizer in DDP:  # with a coordinator: every step takes the mean of all gradients
        if options.every > 1:
            raise InputError("--every is for decentralised optimisers")
        return DistributedDataParallel(model), DDP[options.optimizer](model.parameters(), lr=options.lr or 0.01)
    # The model is not wrapped: its gradients stay on this rank, and the optimiser mixes its parameters with the neighbours'.
    algorithm, channel = (SHORT.get(each, each) for each in (options.optimizer, options.channel))
    rest = {"topology": options.topology, "channel": channel, "every": options.every, "seed": options.seed}
    return model, Decentralized(model.named_parameters(), algorithm, lr=options.lr, **rest)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The fraction of samples that the model classifies correctly."""
    model.eval()
    right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(1000), y.split(1000), strict=True))
    model.train()
    return right / len(y)


def save(folder: Path, content: dict[str, Any]) -> None:
    """Write this rank's file. If a rank dies meanwhile, all files of the checkpoint before are still there."""
    place = folder / f"step-{content['step']:09d}-of-{dist.get_world_size()}-ranks"
    place.mkdir(parents=True, exist_ok=True)
    file, beside = place / f"rank-{dist.get_rank()}.pt", place / f"rank-{dist.get_rank()}.part"
    with beside.open("wb") as out:
        torch.save(content, out)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)
    dist.all_reduce(torch.zeros(1))  # all ranks have written this one, so the older ones can go
    for old in folder.glob("step-*") if LOCAL == 0 else ():  # once on each machine: they may share the folder or not
        if old.name[:14] <= place.name[:14] and old != place:
            shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> dict[str, Any] | None:
    """This rank's part of the last checkpoint that all ranks have. A rank that was not there before takes rank 0's."""
    rank, found = dist.get_rank(), dict[int, Path]()
    for place in folder.glob("step-*"):
        _, step, _, world, _ = place.name.split("-")
        file = place / f"rank-{rank if rank < int(world) else 0}.pt"
        if file.exists():
            found[int(step)] = file
    last = torch.tensor(max(found, default=-1))
    dist.all_reduce(last, dist.ReduceOp.MIN)  # a rank may have been killed before it wrote the newest one
    if last < 0:
        return None
    if int(last) not in found:
        raise InputError(f"rank {rank} has no file of step {last} in {folder}, but the other ranks have one")
    return torch.load(found[int(last)], map_location="cpu", weights_only=True)


class Reporter:
    """Rank 0 prints and draws."""

    def __init__(self, out: Any) -> None:
        self.out, self.rows, self.board = out, list[list[float]](), None
        self.leads, self.terminal = dist.get_rank() == 0, sys.stdout.isatty()
        if self.leads and out:
            out.mkdir(parents=True, exist_ok=True)
            try:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(out / "tensorboard"), flush_secs=5)
            except ImportError:
                self.say("no files for TensorBoard: pip install tensorboard")

    def say(self, text: str, passing: bool = False) -> None:
        """A line. On a terminal the next one replaces it, if it is ``passing``."""
        if self.leads:
            if self.terminal:  # overwrite the line before; a wrapped one could not be
                text = "\r\033[K" + (text[: shutil.get_terminal_size().columns - 1] if passing else text)
            print(text, end="" if self.terminal and passing else "\n", flush=True)

    def add(self, row: list[float], last: bool) -> None:
        """One more point of the curve."""
        if not self.leads:
            return
        self.rows.append(row)
        step, epoch, loss, right, spread, bits, waited, _ = row
        text = f"step {step}  epoch {epoch:.1f}  loss {loss:.4f}  accuracy {right:.1%}  consensus error {spread:.2g}"
        self.say(f"{text}  sent {bits / 8e6:.2f} MB  waited {waited:.1f} s", passing=not last)
        if self.board:
            for name, value in zip(COLUMNS[2:], row[2:], strict=True):
                self.board.add_scalar(name, value, int(step))

    def draw(self) -> None:
        """Write curve.csv and curve.png."""
        with (self.out / "curve.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *self.rows])
        steps, _, losses, right = list(zip(*self.rows, strict=True))[:4]
        figure = Figure(figsize=(8, 3), layout="constrained")
        for axes, values, name in zip(figure.subplots(1, 2), (losses, right), COLUMNS[2:4], strict=True):
            axes.plot(steps, values)
            axes.set(xlabel="step", ylabel=name)
        figure.savefig(self.out / "curve.png", dpi=150)


class Agreement:
    """Whether to stop. All ranks decide it at the same step: else some would wait for others, and checkpoints would not fit together.

    Ctrl-C and SIGTERM reach some ranks earlier than others, or only one. So the ranks ask each other, about once a second.
    """

    def __init__(self, stop: Stop, step: int) -> None:
        self.stop, self.asked, self.since, self.next = stop, step, time.monotonic(), step + 1

    def signal(self, step: int) -> int:
        """The number of the signal that any rank has got; 0: go on."""
        if step < self.next:
            return 0
        pace = (time.monotonic() - self.since) / (step - self.asked)
        told = torch.tensor([self.stop.signal or 0, pace])
        dist.all_reduce(
            told, dist.ReduceOp.MAX
        )  # the slowest rank's pace, so that all ranks agree on the next step of the check
        self.asked, self.since, self.next = step, time.monotonic(), step + min(max(int(1 / told[1]), 1), 100)
        return int(told[0])


def train(options: argparse.Namespace, stop: Stop) -> int:
    """Train, and return the exit code."""
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device(f"cuda:{LOCAL % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed + rank)  # for dropout and the like: each rank draws different numbers

    # Model, shares and batches are those of the scenario `network`, so that the simulator can do the same training. Replace them by
    # yours: the loop needs a module and, in each step, a batch of this rank's data.
    spec = f"network:model={options.model},data={options.data},alpha={options.alpha},batch_size={options.batch}"
    network: Any = registry.make("scenarios", spec)
    x_test, y_test = (each.to(device) for each in (network.samples.x_test, network.samples.y_test))
    model = network.build_model().to(device)
    called, optimizer = build(options, model)
    decentralised = isinstance(optimizer, Decentralized)
    averaged = partial(optimizer.averaged, model) if decentralised else nullcontext  # all ranks enter it together
    ring = 64 * (world - 1) / world * sum(each.numel() for each in model.parameters())  # bits of a ring all-reduce

    epoch = math.ceil(len(network.samples.y) / (options.batch * world))  # steps, of all ranks together
    steps = options.steps or math.ceil(options.epochs * epoch)
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)] if options.schedule == "cosine" else []
    kept: list[Any] = [model, optimizer, *schedulers]
    reporter, first, before, losses = Reporter(options.out), 0, [0.0, 0.0, 0.0], list[float]()
    past: list[
        list[int]
    ] = []  # [ranks, steps of an epoch, steps] of each number of ranks so far; the last is of this one

    settings = {name: str(value) for name, value in vars(options).items() if name not in FREE}
    if options.out and (content := newest(options.out / "checkpoints")):
        for name, value in settings.items():
            if (its := content["settings"].get(name)) != value:
                its = f"the default {name}" if its == "None" else f"{name}={its}"
                mine = "the default" if value == "None" else value
                raise InputError(f"{options.out} has a run with {its}, not {mine}; give another --out")
        if "past" not in content:
            raise InputError(f"{options.out} was written by an earlier version of this script; give another --out")
        for each, state in zip(kept, content["kept"], strict=True):
            each.load_state_dict(state)
        first, past, before = content["step"], content["past"], content["totals"]
        if content["rank"] == rank:  # more ranks than before: the new ones have taken rank 0's file
            reporter.rows, losses = content["rows"], content["losses"]
            torch.set_rng_state(content["random"])
        reporter.say(f"goes on from step {first} of {options.out}")
    if not past or past[-1][0] != world:
        if past and decentralised:
            reporter.say(f"trackers and memories begin again with {world} rank{'s' * (world > 1)}")
        past.append([world, epoch, 0])
    if len(past) > 1:  # an epoch had another number of steps
        passes = sum(number / its for _, its, number in past[:-1])
        steps = options.steps or sum(each[2] for each in past[:-1]) + math.ceil((options.epochs - passes) * epoch)
        for each in schedulers:
            each.T_max = steps
    earlier = past[-1][2]  # steps with as many ranks, before this start
    step, began = first, time.monotonic()

    def totals() -> list[float]:
        """Bits sent and seconds waited by this rank (unknown for DDP), and seconds in all, including those before a restart."""
        own = (optimizer.bits_sent, optimizer.seconds_waiting) if decentralised else ((step - first) * ring, 0.0)
        return [old + new for old, new in zip(before, (*own, time.monotonic() - began), strict=True)]

    def report() -> None:
        """Measure and print, all ranks together."""
        means = torch.tensor([sum(losses) / len(losses), *totals()], dtype=torch.float64)
        dist.all_reduce(means)
        loss, bits, waited, seconds = (means / world).tolist()
        losses.clear()
        spread = optimizer.consensus_error() if decentralised else 0.0
        with averaged():  # rank 0 tests; the others go on and wait at the next message
            right = accuracy(model, x_test, y_test) if rank == 0 and network.classifies else math.nan
        past[-1][2] = earlier + step - first
        passes = sum(number / its for _, its, number in past)
        reporter.add([step, passes, loss, right, spread, bits, waited, seconds], last=step == steps)

    def checkpoint() -> None:
        """Save all that the next steps depend on. Batches are functions of the step's number, so there is no sampler to save."""
        if reporter.rows:  # first: once all have saved, some may end, and torchrun then ends the others
            reporter.draw()
        past[-1][2] = earlier + step - first
        state = {"past": past, "kept": [each.state_dict() for each in kept], "random": torch.get_rng_state()}
        curve = {"rows": reporter.rows, "totals": totals(), "losses": losses}
        save(options.out / "checkpoints", {"step": step, "rank": rank, "settings": settings, **state, **curve})

    agreement = Agreement(stop, step)
    while step < steps:
        x, y = (each.to(device) for each in network.minibatch(step, rank, world, options.seed))
        optimizer.zero_grad()
        loss = network.batch_loss(called(x), y)
        loss.backward()
        if options.clip:
            nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        for each in schedulers:
            each.step()
        losses.append(loss.item())
        step += 1

        if step % (options.report_every or epoch) == 0 or step == steps:
            report()
        signal = agreement.signal(step) if step < steps else 0
        if options.out and (step % (options.checkpoint_every or 10 * epoch) == 0 or step == steps or signal):
            checkpoint()
        if signal:
            reporter.say(f"stopped at step {step}" + (": the same command goes on from here" if options.out else ""))
            return 128 + signal

    with averaged():
        if rank == 0 and options.out:
            torch.save(model.state_dict(), options.out / "model.pt")
            reporter.say(f"written: {options.out}/model.pt, the mean of all ranks, curve.csv and curve.png")
    return 0


def main() -> int:
    """Meet the other ranks and train."""
    options = ask(sys.argv[1:])
    if "RANK" in os.environ:  # torchrun has started this rank
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with stopping() as stop:
            stop.patient = True  # signals are noted, and acted upon between two steps; a second one ends the process
            return train(options, stop)
    except (InputError, RunError) as error:
        print(f"rank {dist.get_rank()}: {error}", file=sys.stderr)
        return 1
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
