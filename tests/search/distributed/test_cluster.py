"""Connecting to Ray: what is refused, and how soon."""

import socket
from types import SimpleNamespace

import pytest

from search.distributed import cluster as ray_cluster
from search.distributed.cluster import Cluster, connected, starts_here
from spaces.config import HardwareConfig
from spaces.errors import UserError


@pytest.fixture
def silent_port():
    """A port that accepts connections and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(5)
        yield server.getsockname()[1]


@pytest.fixture
def unconnected(monkeypatch):
    """As in a process that has not connected yet, even where another test has."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def refusal(address):
    with pytest.raises(UserError) as caught, connected(address):
        pass
    message = str(caught.value)
    assert message.startswith(f"--address {address}: ") and "\n" not in message
    return message


def test_addresses_that_are_none(unconnected):
    assert "legal: auto, HOST:PORT" in refusal("nonsense")
    assert "search.distributed.client_task" in refusal("ray://127.0.0.1:10001")


def test_a_dead_address_is_refused_at_once(unconnected, silent_port):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert f"nothing answers at 127.0.0.1:{port}" in refusal(f"127.0.0.1:{port}")


def test_a_port_that_is_no_ray_is_refused_when_it_stays_silent(unconnected, silent_port, monkeypatch):
    assert ray_cluster.CONNECT_S < 20
    monkeypatch.setattr(ray_cluster, "CONNECT_S", 2.0)
    assert "is no Ray cluster's head" in refusal(f"127.0.0.1:{silent_port}")


def test_auto_without_a_cluster_says_how_to_start_one(unconnected, monkeypatch):
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: set())
    assert "ray start --head" in refusal("auto")


def test_a_job_api_address_in_the_environment_is_not_the_clusters(unconnected, monkeypatch):
    started = []
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setattr(ray_cluster, "_start", started.append)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="here:1"))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with connected(None, cpus=3) as cluster:
        assert cluster == Cluster("here:1", local=True)
    assert started == [3]


@pytest.mark.parametrize("address, environment, here", [
    (None, "", True), ("local", "", True), ("local", "10.0.0.1:6379", True),
    (None, "http://127.0.0.1:8265", True), ("auto", "", False),
    ("10.0.0.1:6379", "", False), (None, "10.0.0.1:6379", False)])
def test_whether_a_cluster_is_started_is_known_before(unconnected, monkeypatch, address, environment, here):
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert starts_here(address) == here
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    assert not starts_here(address)


@pytest.mark.parametrize("hardware, groups", [
    (HardwareConfig(), 5), (HardwareConfig(cpus=2), 2), (HardwareConfig(cpus=0.5), 10),
    (HardwareConfig(workers=2), 2), (HardwareConfig(gpus=1), 2), (HardwareConfig(gpus=0.5), 3),
])
def test_room_counts_whole_workers_node_by_node(monkeypatch, hardware, groups):
    nodes = [{"Alive": True, "Resources": {"CPU": 3.0, "GPU": 2.0}},
             {"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert Cluster("", True).room(hardware) == groups


def test_hardware_that_does_not_fit_is_a_mistake_with_figures(monkeypatch):
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    with pytest.raises(UserError, match=r"needs 3 worker\(s\) with 1 CPU.* the cluster has 2 CPU"):
        Cluster("", True).room(HardwareConfig(workers=3))


def test_a_process_that_is_connected_stays_connected(ray_session):
    with connected(None) as cluster:
        assert not cluster.local
        assert cluster.room(HardwareConfig()) == 4
    assert ray_session.is_initialized()


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_local_cluster_is_tried_three_times_and_the_last_is_patient(unconnected, monkeypatch, failures):
    import ray._private.services as services

    tries, asked = [], []
    monkeypatch.setattr("search.distributed.compat.time.sleep", asked.append)
    monkeypatch.setattr(services, "get_node", lambda: (_ for _ in ()).throw(RuntimeError("not yet"))
                        if len(asked) < 3 else "node")

    def init(**options):
        tries.append(options["address"])
        if len(tries) == 3:
            assert services.get_node() == "node" and asked, "it registers late, and is waited for"
        if len(tries) <= failures:
            raise Exception("The current node timed out during startup.\nMore words.")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    if failures < 3:
        ray_cluster._start(None)
    else:
        with pytest.raises(UserError,
                           match=r"could not be started: The current node timed out during startup\.$"):
            ray_cluster._start(None)
    assert tries == ["local"] * min(failures + 1, 3)
    with pytest.raises(RuntimeError):
        asked.clear() or services.get_node()
