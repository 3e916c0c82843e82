"""Install packages beside this interpreter: with uv where the package index has it, else with pip.

    python cluster/install_packages.py [-c FILE] [-e PATH] [REQUIREMENT ...]

Run by `make install` with the interpreter of the new environment: only the standard library is at hand. uv
unpacks in parallel, and nothing is compiled ahead: a run imports a part of all modules, and Python keeps
what it compiled for these; all are compiled where Python is told to keep nothing (PYTHONDONTWRITEBYTECODE).
uv reads no settings of pip; they are handed on. Where pip is set to something that is not known here, or uv
does not come to an end, pip installs, as it would have.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

UV = "uv==0.13.9"
PASSED_OVER = {"default-timeout", "timeout", "retries", "disable-pip-version-check", "progress-bar", "quiet",
               "verbose", "no-color", "no-input", "require-virtualenv", "root-user-action", "cert",
               "break-system-packages", "no-compile", "cache-dir", "no-cache-dir"}
"""Settings of pip that do not decide what is installed, or are handed on in the environment."""


def pip(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Run this interpreter's pip."""
    return subprocess.run([sys.executable, "-m", "pip", *arguments], **options)


def pip_settings() -> dict[str, str]:
    """What pip is told by its files and by the environment, which decides; of the command `install` after
    what holds for all."""
    listing = pip("config", "list", capture_output=True, text=True, check=True).stdout
    found: dict[tuple[int, str], str] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in (places := ("global", "install", ":env:")):
            found[places.index(section), key] = str(ast.literal_eval(value))
    return {key: value for (_, key), value in sorted(found.items())}


def uv_options(settings: Mapping[str, str], index: str = "") -> list[str] | None:
    """pip's settings as uv takes them; None where one of them is not known. `index`: a further one.

    Folders that are not there are left out, as pip does.
    """
    kinds = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links",
             "constraint": "--constraints", "trusted-host": "--allow-insecure-host"}
    if set(settings) - set(kinds) - PASSED_OVER:
        return None
    told = [(option, value) for key, option in kinds.items() for value in settings.get(key, "").split()
            if _there(value)]
    told += [("--index", index)] if index else []
    # pip takes the best of all indexes; uv by default what the first that has the package offers
    return ["--index-strategy", "unsafe-best-match", *(word for pair in told for word in pair)]


def _there(place: str) -> bool:
    scheme, separator, path = place.partition("file://")
    return not separator or bool(scheme) or Path(path).exists()


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of uv: pip's certificates, patience and wish for no cache."""
    told = {}
    if settings.get("cert"):
        told["SSL_CERT_FILE"] = settings["cert"]
    if settings.get("default-timeout") or settings.get("timeout"):
        told["UV_HTTP_TIMEOUT"] = settings.get("timeout") or settings["default-timeout"]
    if settings.get("no-cache-dir", "").lower() in ("1", "true", "yes", "on"):
        told["UV_NO_CACHE"] = "1"
    return {**told, **os.environ}


def uv_program(scratch: Path) -> str | None:
    """The uv of this machine, or one that is laid into a folder that does not stay; None where there is
    none."""
    if found := shutil.which("uv"):
        return found
    done = pip("install", "--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:", "--target",
               str(scratch), UV, capture_output=True)
    program = scratch / "bin" / "uv"
    return str(program) if done.returncode == 0 and program.exists() else None


def install(wanted: Sequence[str], index: str = "") -> int:
    """Install what `wanted` says as words of a command that pip and uv share; an exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            settings = pip_settings()
            options = uv_options(settings, index)
            program = uv_program(Path(scratch)) if options is not None else None
            if program is not None and options is not None:
                command = [program, "pip", "install", "--quiet", "--python", sys.executable,
                           *(["--compile-bytecode"] if sys.dont_write_bytecode else [])]
                done = subprocess.run([*command, *options, *wanted], env=uv_environment(settings))
                if done.returncode == 0:
                    return 0
                print("uv could not install it; pip tries", file=sys.stderr)
        except (OSError, subprocess.CalledProcessError, ValueError, SyntaxError) as error:
            print(f"without uv: {error}", file=sys.stderr)
    more = ["--extra-index-url", index] if index else []
    if not sys.dont_write_bytecode:
        more.append("--no-compile")
    return min(pip("install", "-qq", *more, *wanted).returncode, 1)


def main(argv: list[str] | None = None) -> int:
    """Install. Exit codes: 0 installed, 1 failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requirements", nargs="*")
    parser.add_argument("-c", dest="constraints", action="append", default=[], metavar="FILE")
    parser.add_argument("-e", dest="editable", action="append", default=[], metavar="PATH")
    options = parser.parse_args(argv)
    return install([*(word for file in options.constraints for word in ("-c", file)),
                    *options.requirements, *(word for path in options.editable for word in ("-e", path))])


if __name__ == "__main__":
    sys.exit(main())
