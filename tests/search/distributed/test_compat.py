"""What is used of Ray under private names: there in this version as in the one that it was read in.
No cluster needed."""

import subprocess
import sys
from importlib import metadata

import pytest

from cluster import compat as jobs
from search.distributed import compat, environment


def test_they_were_read_in_ray_2_60_0():
    """Another version: read them again (search/distributed/compat.py, cluster/compat.py), and name
    it there and here."""
    assert compat.RAY == jobs.RAY == metadata.version("ray") == "2.60.0"


def test_ray_2_60_0_lists_the_clusters_of_this_machine():
    found = compat.running_clusters()
    assert isinstance(found, set) and all(address.rpartition(":")[2].isdigit() for address in found)


def test_ray_2_60_0_remembers_the_last_ray_start(tmp_path, monkeypatch):
    import ray._private.utils as utils

    monkeypatch.setattr(utils, "get_ray_address_file", lambda folder: str(tmp_path / "ray_current_cluster"))
    assert compat.recorded_cluster() is None
    (tmp_path / "ray_current_cluster").write_text("10.0.0.1:6379")
    assert compat.recorded_cluster() == "10.0.0.1:6379"


def test_ray_2_60_0_has_the_client_that_asks_a_head_whether_it_answers():
    """That it fails where none answers, and how soon: test_cluster.py."""
    named = compat.ANSWERS.partition("GcsClient(")[0] + "assert GcsClient"
    assert subprocess.run([sys.executable, "-c", named], check=False).returncode == 0


@pytest.mark.parametrize(("dashboard", "gone"), [
    ("127.0.0.1:8265", {"DatasetsCallback"}), (None, {"DatasetsCallback", "PlacementGroupCleanerCallback"})])
def test_ray_2_60_0_starts_groups_without_what_does_nothing_for_them(monkeypatch, dashboard, gone):
    environment.apply()
    from ray.train.torch import TorchTrainer

    monkeypatch.setattr("ray._private.worker.get_dashboard_url", lambda: dashboard)
    trainer = TorchTrainer(print)
    before = {type(one).__name__ for one in trainer._create_default_callbacks()}
    compat.lean(trainer)
    assert before - {type(one).__name__ for one in trainer._create_default_callbacks()} == gone
