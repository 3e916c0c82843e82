"""Install torch, and never several GB of CUDA libraries on a machine without an NVIDIA GPU by accident.

    python cluster/install_torch.py [REQUIREMENT] [--index URL] [--cuda]

Run by `make install` with the interpreter of the new environment, before anything else is installed: only the
standard library is at hand. Where no GPU is found, pip is first asked what it would install (metadata only,
no wheel is downloaded); a build that needs the CUDA libraries stops here, with the two ways out in one line.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

if __package__:
    from cluster.install_packages import install, pip
else:  # run as a file, before there is a package
    from install_packages import install, pip  # type: ignore[no-redef]

REQUIREMENT = "torch==2.13.0"
# the first pip whose --dry-run reads a wheel's metadata without fetching the wheel
METADATA_ONLY_PIP = (23, 3)
CUDA_PACKAGE = re.compile(r"(nvidia|cuda)[-_]", re.IGNORECASE)


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver that answers."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def installed(requirement: str) -> bool:
    """Whether the pinned version (any local build of it, such as +cpu) is already here."""
    name, _, version = requirement.partition("==")
    try:
        present = metadata.version(name.strip())
    except metadata.PackageNotFoundError:
        return False
    return present == version or present.partition("+")[0] == version


def cuda_packages(report: dict) -> list[str]:
    """The CUDA libraries that the packages of a pip installation report ask for."""
    needs = [need for item in report["install"] for need in item["metadata"].get("requires_dist") or []]
    applies = [need for need in needs if "extra ==" not in need.partition(";")[2]]
    return sorted({re.split(r"[\s\[<>=!~;(]", need, maxsplit=1)[0]
                   for need in applies if CUDA_PACKAGE.match(need)})


def would_install(requirement: str, index: list[str]) -> dict:
    """pip's own report of what it would install for `requirement`, its dependencies left out."""
    version = tuple(int(part) for part in metadata.version("pip").split(".")[:2])
    if version < METADATA_ONLY_PIP:
        pip("install", "--quiet", "--upgrade", "pip", check=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--use-feature=fast-deps",
            "--report", str(report), *index, requirement, check=True, stderr=subprocess.DEVNULL)
        return json.loads(report.read_text())


def main(argv: list[str] | None = None) -> int:
    """Install, or explain in one line why not. Exit codes: 0 installed, 1 pip failed,
    2 a choice is needed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requirement", nargs="?", default=REQUIREMENT)
    parser.add_argument("--index", default="",
                        help="a further package index, such as one with CPU builds of torch")
    parser.add_argument("--cuda", action="store_true", help="accept CUDA libraries though no GPU was found")
    options = parser.parse_args(argv)
    if installed(options.requirement):
        return 0
    index = ["--extra-index-url", options.index] if options.index else []
    if sys.platform == "linux" and not options.cuda and not has_gpu():
        try:
            found = cuda_packages(would_install(options.requirement, index))
        except subprocess.CalledProcessError:
            found = []  # the installation below fails for the same reason, and says it in full
        if found:
            print("qdlm: error: no NVIDIA GPU here, but pip would install the CUDA build of "
                  f"{options.requirement} (several GB: {', '.join(found[:2])}, ...); "
                  "give TORCH_INDEX=<index with CPU builds of torch>, or CUDA=1 to take it all the same "
                  "(example: make install TORCH_INDEX=<url>)", file=sys.stderr)
            return 2
    return install([options.requirement], options.index)


if __name__ == "__main__":
    sys.exit(main())
