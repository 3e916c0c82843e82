"""What an installation downloads: `qdlm` as it is (what an exported model needs) beside `qdlm[search]`.

    python -m benchmarks.installing [--uv UV] [--torch-wheel FILE] [3.11 3.13 ...]

uv (`pip install uv`) resolves each for x86-64 Linux at the releases of constraints.txt, and lists the wheels
with their sizes; nothing is downloaded. torch and the CUDA libraries that its default build asks for are told
apart: the same with either, and another build (`--torch-wheel`: the file of a CPU build) has another size.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from benchmarks.common import save

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = "x86_64-manylinux_2_28"
OF_TORCH = re.compile(r"torch$|triton$|nvidia-|cuda-")


def main() -> None:
    """Ask for each Python, print and keep the bytes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", default=["3.11", "3.13"])
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--torch-wheel", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {"platform": PLATFORM, "torch_cpu_bytes": options.torch_wheel
                               and options.torch_wheel.stat().st_size}
    for python in options.pythons:
        light, full = (wheels(options.uv, python, extra) for extra in (None, "search"))
        found = {"light_bytes": beyond_torch(light), "search_bytes": beyond_torch(full),
                 "packages": [len(light), len(full)],
                 "torch_default_bytes": sum(light.values()) - beyond_torch(light),
                 "share": round(beyond_torch(light) / beyond_torch(full), 3)}
        if figures["torch_cpu_bytes"]:
            cpu = figures["torch_cpu_bytes"]
            found["share_with_torch_cpu"] = round((found["light_bytes"] + cpu)
                                                  / (found["search_bytes"] + cpu), 3)
        print(python, found)
        figures[python] = found
    save("installing", figures)


def beyond_torch(sizes: dict[str, int]) -> int:
    """Bytes of all but torch and its CUDA libraries."""
    return sum(size for name, size in sizes.items() if not OF_TORCH.match(name))


def wheels(uv: str, python: str, extra: str | None) -> dict[str, int]:
    """Package -> bytes of the file that pip would take."""
    torch, = re.findall(r"^TORCH +\?= (torch==\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "torch.txt").write_text(torch)
        lock = Path(folder) / "pylock.toml"
        subprocess.run([uv, "pip", "compile", "--quiet", "--python-version", python, "--python-platform",
                        PLATFORM, "-c", str(ROOT / "constraints.txt"), "-c", str(Path(folder) / "torch.txt"),
                        *(["--extra", extra] if extra else []), "--format", "pylock.toml", "-o", str(lock),
                        str(ROOT / "pyproject.toml")], check=True, stdout=subprocess.DEVNULL)
        packages = tomllib.loads(lock.read_text())["packages"]
    ranks = {tag: place for place, tag in enumerate(tags(python))}
    return {package["name"]: best(package, ranks) for package in packages}


def best(package: dict[str, Any], ranks: dict[Tag, int]) -> int:
    """Bytes of the wheel whose tag stands first, or of the source where none fits."""
    fit = []
    for wheel in package.get("wheels", []):
        name = wheel.get("name") or wheel["url"].rsplit("/", 1)[1]
        places = [ranks[tag] for tag in parse_wheel_filename(name)[3] if tag in ranks]
        fit += [(min(places), wheel["size"])] if places else []
    return min(fit)[1] if fit else package["sdist"]["size"]


def tags(python: str) -> list[Tag]:
    """What pip takes there, the best first."""
    version = (3, int(python.partition(".")[2]))
    platforms = [*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64",
                 "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    interpreter = f"cp{python.replace('.', '')}"
    return [*cpython_tags(version, platforms=platforms),
            *compatible_tags(version, interpreter=interpreter, platforms=platforms)]


if __name__ == "__main__":
    main()
