"""Hosts on one machine: network namespaces with a link between them, which may be slow. Needs root and iproute2."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Host(NamedTuple):
    """A namespace, the address of its end of the link and the name of that interface."""

    namespace: str
    address: str
    interface: str

    def command(self, *words: str) -> list[str]:
        """These words, as a command that runs on this host."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def enter(self) -> None:
        """Move the calling thread, and what it starts from now on, to this host."""
        with Path("/run/netns", self.namespace).open() as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.namespace}")


def refusal() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if shutil.which("ip") is None:
        return "iproute2 (ip) is not installed"
    name = f"distopt-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"network namespaces are not permitted: {tried.stderr.strip().splitlines()[-1]}"
    words = ["ip", "-n", name, "link", "add", "try0", "type", "veth", "peer", "name", "try1"]
    link = subprocess.run(words, capture_output=True, text=True, check=False)
    _run("ip", "netns", "delete", name)
    return f"virtual links are not permitted: {link.stderr.strip().splitlines()[-1]}" if link.returncode else None


@contextmanager
def pair(mbit: float | None = None) -> Iterator[tuple[Host, Host]]:
    """Two hosts and a link of ``mbit`` megabits a second in either direction between them; removed at the end."""
    names = [f"distopt-{os.getpid()}-{k}" for k in (0, 1)]
    hosts = tuple(Host(name, f"10.199.77.{k + 1}", f"link{k}") for k, name in enumerate(names))
    made: list[str] = []
    try:
        for name in names:
            _run("ip", "netns", "add", name)
            made.append(name)
        _run(
            "ip",
            "-n",
            names[0],
            "link",
            "add",
            hosts[0].interface,
            "type",
            "veth",
            "peer",
            "name",
            hosts[1].interface,
            "netns",
            names[1],
        )
        for host in hosts:
            _run("ip", "-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _run("ip", "-n", host.namespace, "link", "set", interface, "up")
            if mbit is not None:
                shape = f"tbf rate {mbit}mbit burst 64kb latency 400ms".split()
                _run(*host.command("tc", "qdisc", "add", "dev", host.interface, "root", *shape))
        yield hosts[0], hosts[1]
    finally:
        for name in made:
            _run("ip", "netns", "delete", name)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
