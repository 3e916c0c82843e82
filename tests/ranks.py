"""Processes that have what the product's workers import: two ranks of one torch.distributed group, or one
that is killed."""

import multiprocessing
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = ["peft", "pytest", "torch._dynamo", "torch.distributed", "trainable.stages.trial",
             "trainable.workers.jobs"]


def forked(function, *arguments) -> multiprocessing.Process:
    """`function(*arguments)` in a process, not yet started. It is a fork of a server that has imported the
    product's workers, once for all tests of a process."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    return multiprocessing.get_context("forkserver").Process(target=_one, args=(function, arguments))


def _one(function, arguments) -> None:
    torch.set_num_threads(1)
    function(*arguments)


def run_two_ranks(function, *arguments) -> None:
    """`function(rank, *arguments)` on ranks 0 and 1, each with one thread and within a gloo group. Raises
    what one of them raises. They are forks, as `forked` makes them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.set_forkserver_preload(PRELOADED)
    mp.start_processes(_rank, (port, function, arguments), nprocs=2, start_method="forkserver")


def _rank(rank: int, port: int, function, arguments) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    function(rank, *arguments)
    dist.destroy_process_group()
