"""A Ray cluster of one's own lets nobody in without a token; with a stand-in for Ray, of which no cluster is started."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from distopt.engines.ray import cluster
from distopt.errors import InputError


class StandIn(SimpleNamespace):
    """A Ray whose ``init`` does what ``begin`` does, and that says whether it was shut down."""

    def __init__(self, version: str, begin: Any = lambda: None) -> None:
        super().__init__(__version__=version, _private=SimpleNamespace(), begin=begin, asked=[], down=0)

    def is_initialized(self) -> bool:
        return False

    def init(self, **asked: Any) -> None:
        self.asked.append(asked)
        self.begin()

    def shutdown(self) -> None:
        self.down += 1


@pytest.fixture(autouse=True)
def _no_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


def test_a_cluster_of_ones_own_without_a_token_is_refused_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn("2.52.0")
    monkeypatch.setitem(sys.modules, "ray", ray)
    with (
        pytest.raises(InputError, match="Ray 2.52.0 lets any user of this machine in; set RAY_AUTH_MODE=token"),
        cluster.cluster(cpus=1),
    ):
        raise AssertionError("the cluster was used")
    assert ray.down == 1 and ray.asked[0]["address"] == "local"


@pytest.mark.parametrize("how", ["by itself", "as the user asked"])
def test_a_cluster_with_a_token_is_used(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(
        "2.60.0", (lambda: monkeypatch.setenv("RAY_AUTH_MODE", "token")) if how == "by itself" else lambda: None
    )
    if how == "as the user asked":
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setitem(sys.modules, "ray", ray)
    with cluster.cluster(cpus=1):
        assert ray.down == 0
    assert ray.down == 1


def test_a_running_cluster_has_made_its_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn("2.60.0")
    monkeypatch.setitem(sys.modules, "ray", ray)
    with cluster.cluster("192.0.2.1:6379"):
        assert ray.asked[0]["address"] == "192.0.2.1:6379"


@pytest.mark.parametrize("version", ["2.51.3", "2.9.0", "1.13.0"])
def test_a_ray_that_knows_no_tokens_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(version)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with (
        pytest.raises(InputError, match=f"Ray {version} has no tokens, .*pip install --upgrade"),
        cluster.cluster(cpus=1),
    ):
        raise AssertionError("the cluster was used")
    assert not ray.asked
