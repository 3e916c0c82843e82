"""The guard against CUDA libraries on a machine without a GPU. Nothing is installed here."""

from __future__ import annotations

import subprocess

import pytest

from cluster import install_torch

PLAIN = ["filelock", "sympy>=1.13.3", "optree>=0.13.0; extra == \"optree\""]
CUDA = ["filelock", "cuda-toolkit[cublas,cudart]==13.0.3; platform_system == \"Linux\"",
        "nvidia-nccl-cu13==2.29.7"]


def report(needs: list[str] | None) -> dict:
    """A pip installation report of torch alone."""
    return {"install": [{"metadata": {"name": "torch", "requires_dist": needs}}]}


@pytest.fixture
def machine(monkeypatch):
    """A Linux machine without GPU and without torch; returns what was to be installed."""
    ran = []
    monkeypatch.setattr(install_torch.sys, "platform", "linux")
    monkeypatch.setattr(install_torch, "has_gpu", lambda: False)
    monkeypatch.setattr(install_torch, "installed", lambda requirement: False)
    monkeypatch.setattr(install_torch, "would_install", lambda requirement, index: report(CUDA))
    monkeypatch.setattr(install_torch, "install", lambda *words: ran.append(words) or 0)
    return ran


def test_cuda_needs_are_seen():
    assert install_torch.cuda_packages(report(CUDA)) == ["cuda-toolkit", "nvidia-nccl-cu13"]
    assert install_torch.cuda_packages(report(PLAIN)) == [] == install_torch.cuda_packages(report(None))
    assert install_torch.cuda_packages(report(["nvidia-x==1; extra == 'gpu'"])) == []


def test_a_cuda_build_without_gpu_stops_with_one_line(machine, capsys):
    assert install_torch.main([]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines) == 1 and lines[0].startswith("qdlm: error: ") and "TORCH_INDEX=" in lines[0]
            and "CUDA=1" in lines[0])
    assert machine == []


def test_the_choice_can_be_made(machine):
    assert install_torch.main(["--cuda"]) == 0
    assert machine == [(["torch==2.13.0"], "")]


def test_a_cpu_build_is_installed(machine, monkeypatch):
    monkeypatch.setattr(install_torch, "would_install", lambda requirement, index: report(PLAIN))
    assert install_torch.main(["torch==2.12.0", "--index", "file:///wheels"]) == 0
    assert machine == [(["torch==2.12.0"], "file:///wheels")]


def test_a_gpu_machine_takes_what_the_index_gives(machine, monkeypatch):
    monkeypatch.setattr(install_torch, "has_gpu", lambda: True)
    assert install_torch.main([]) == 0 and machine == [(["torch==2.13.0"], "")]


def test_nothing_is_done_twice(machine, monkeypatch):
    monkeypatch.setattr(install_torch, "installed", lambda requirement: True)
    assert install_torch.main([]) == 0 and machine == []


@pytest.mark.parametrize("present, expected",
                         [("2.13.0+cpu", True), ("2.13.0", True), ("2.12.0", False), (None, False)])
def test_a_local_build_counts_as_installed(present, expected, monkeypatch):
    def version(_name):
        if present is None:
            raise install_torch.metadata.PackageNotFoundError
        return present
    monkeypatch.setattr(install_torch.metadata, "version", version)
    assert install_torch.installed("torch==2.13.0") is expected


def test_when_pip_cannot_say_the_installation_says_why(machine, monkeypatch):
    def fail(requirement, index):
        raise subprocess.CalledProcessError(1, "pip")
    monkeypatch.setattr(install_torch, "would_install", fail)
    assert install_torch.main([]) == 0 and len(machine) == 1
