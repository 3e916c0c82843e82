"""Jobs without models, for the tests of the pool and of the sweep."""

import os
import random
import time
from pathlib import Path

import torch

from spaces.errors import UserError


def count(payload, context):
    """`n` events, each with who computed it."""
    for i in range(payload["n"]):
        yield {"i": i, "pid": os.getpid(), "rank": context.rank, "at": time.time()}


def fail(payload, context):
    """One event, then the error that is asked for."""
    yield {"i": 0}
    raise {"value": ValueError, "user": UserError, "exit": SystemExit}[payload["kind"]](
        "it broke\nsecond line")


def die(payload, context):
    """Kill the worker, unless `once` names a file that exists already."""
    if "once" not in payload or not os.path.exists(payload["once"]):
        if "once" in payload:
            open(payload["once"], "w").close()
        os.kill(os.getpid(), 9)
    yield {"survived": True}


def sleep(payload, context):
    yield {"begun": True}
    time.sleep(payload["seconds"])
    yield {"slept": True}


def litter(payload, context):
    """Leaves behind everything a careless trial might."""
    torch.manual_seed(1234)
    random.seed(99)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    big = torch.zeros(1000, requires_grad=True)
    yield {"size": big.numel()}
    yield {"never": "asked for"}


def probe(payload, context):
    """What a job finds in its process when it starts."""
    import gc

    yield {
        "torch_rng": torch.rand(3).tolist(), "random": random.random(), "grad": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()), "threads": torch.get_num_threads(), "cpus": context.cpus,
        "leaves": sum(isinstance(o, torch.Tensor) and o.numel() == 1000 for o in gc.get_objects()),
    }


def gather(payload, context):
    """The sum of the ranks, by a collective of the default process group."""
    value = torch.tensor([float(context.rank + 1)])
    torch.distributed.all_reduce(value)
    yield {"sum": value.item(), "world": context.world_size, "rank": context.rank}


def one_rank_fails(payload, context):
    if context.rank == 1:
        raise ValueError("only here")
    yield {"fine": True}


def first_rank_only(payload, context):
    """Rank 0 works, the others have nothing to do."""
    if context.rank == 0:
        yield {"rank": 0}
        yield {"rank": 0}


def making(kind):
    """A job that makes a folder, as the prepare jobs do. Each call adds a line to the file `made` in the
    cache folder."""
    def prepare(payload, context):
        yield {"progress": 0.0, "detail": "beginning"}
        seed, cache = payload["config"]["base"]["seed"], Path(payload["cache"])
        with (cache / "made").open("a") as log:
            log.write(f"{kind} {seed}\n")
        time.sleep(payload["config"]["base"]["optim"]["clip"] / 5)
        if seed == 666:
            raise UserError("no such text")
        folder = cache / f"made-{seed}"
        folder.mkdir(exist_ok=True)
        yield {"progress": 1.0, "path": str(folder)}

    return prepare


def trial(payload, context):
    """Two rungs. The searched `lora.rank` says what goes wrong at the second; `adapt.optim.warmup`
    is worth something.

    Each finished trial adds a line to the file `log` in the cache folder.
    """
    values, folder, base = payload["values"], Path(payload["folder"]), Path(payload["prepared"]["base"])
    fault, warmup = FAULTS[values.get("lora.rank", 0)], values.get("adapt.optim.warmup", 0)
    yield {"ready": True}
    at = time.time()
    if len(payload["rungs"]) == 1:  # trained again with another seed
        warmup, seed = payload["config"]["adapt"]["optim"]["warmup"], payload["config"]["seed"]
        yield {"rung": 0, "steps": payload["rungs"][0], "final": True,
               "loss": 1.0 / (1 + warmup) + 0.001 * seed, "size": float(warmup)}
        return
    for rung in range(2):
        time.sleep(values.get("adapt.optim.clip", 0.0))
        loss = 1.0 / (1 + warmup) + (1 - rung)
        event = {"rung": rung, "steps": payload["rungs"][rung], "final": rung == 1, "at": at,
                 "pid": os.getpid()}
        if rung == 0:
            yield {**event, "loss": loss}
            continue
        if fault == "raise":
            raise ValueError("it broke")
        marker = base / f"died-{payload['number']}"
        if fault == "die" or (fault == "die once" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), 9)
        (folder / "artifact").mkdir(parents=True)
        (folder / "artifact" / "weights").write_text(str(warmup))
        with (base.parent / "log").open("a") as log:
            log.write(f"{payload['number']}\n")
        yield {**event, "loss": float("nan") if fault == "nan" else loss, "size": float(warmup),
               "artifact": str(folder / "artifact")}


def remeasure(payload, context):
    warmup = int((Path(payload["artifact"]) / "weights").read_text())
    yield {"loss": 1.0 / (1 + warmup) + 0.01 * payload["seed"], "size": float(warmup)}


FAULTS = {0: None, 1: "raise", 2: "nan", 3: "die", 4: "die once"}
JOBS = {job.__name__: job
        for job in (count, fail, die, sleep, litter, probe, gather, one_rank_fails, first_rank_only)}
JOBS |= {"trial": trial, "remeasure": remeasure}
JOBS |= {kind: making(kind) for kind in ("corpus", "teacher", "base")}
