#!/bin/sh
# One simulation on several processes of one or several machines, each holding a block of the agents. Or a training script, each rank an agent.
#
# One machine, 4 ranks:
#
#     launch/torchrun.sh simulate ring --agents 16
#
# Two machines, 4 ranks on each (start it on both; the address is the first one's, as the others reach it):
#
#     NODES=2 NODE=0 ADDRESS=192.168.0.10 launch/torchrun.sh simulate ring --agents 64
#     NODES=2 NODE=1 ADDRESS=192.168.0.10 launch/torchrun.sh simulate ring --agents 64
#
# A training script, which gets the words after launch/torchrun.sh:
#
#     SCRIPT=launch/train.py launch/torchrun.sh --optimizer gtadam --channel sign
#     SCRIPT=launch/train.py NODES=2 NODE=0 ADDRESS=192.168.0.10 launch/torchrun.sh --optimizer gtadam --channel sign --out runs/sign
#
# The first rank of node 0 prints the table and writes the files. The settings:
#
#     RANKS        ranks on each machine (4)
#     NODES, NODE  how many machines, and which this is, from 0 (1, 0)
#     ADDRESS      of node 0, and PORT, free there (29500), with several machines
#     SCRIPT       a training script in place of a simulation
#     BACKEND      nccl gives each rank a GPU of its own; RANKS is then at most the GPUs of a machine (gloo: CPUs)
#     RESTARTS     how often all start anew after one has failed (0): from the last checkpoint, given --out DIR --checkpoint-every K
#     PYTHON       the Python that distopt is installed for (python3)
#
# With several machines gloo listens where the machine's own name leads; GLOO_SOCKET_IFNAME=eth0 names a network interface instead.
# Files that a spec names must lie at the same path on every machine.
set -eu

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # the ranks are the parallelism
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1           # ranks that are started again must not find the addresses of those before
if [ "${NODES:-1}" -gt 1 ]; then
    : "${NODE:?is 0 on the first machine, 1 on the second, and so on}"
    : "${ADDRESS:?is the address of the first machine, as the others reach it}"
    meet="--nnodes $NODES --node-rank $NODE --master-addr $ADDRESS --master-port ${PORT:-29500}"
else
    meet="--standalone"
fi
if [ -n "${SCRIPT:-}" ]; then
    set -- "$SCRIPT" "$@"
else
    set -- -m distopt "$@" --engine ranks ${BACKEND:+--backend "$BACKEND"}
fi
# shellcheck disable=SC2086  # several words
exec "${PYTHON:-python3}" -m torch.distributed.run $meet --nproc-per-node "${RANKS:-4}" --max-restarts "${RESTARTS:-0}" "$@"
