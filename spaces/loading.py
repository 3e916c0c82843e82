"""Finds space files: a path, or one that ships with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from spaces.errors import UserError
from spaces.texts import read_text
from spaces.values import did_you_mean

MOST_BYTES = 16 << 20
"""Bytes of a space file that is read."""


def shipped() -> dict[str, Path]:
    """The spaces that come with the package, by name."""
    folder = Path(str(resources.files("spaces")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def locate(path_or_name: str | Path) -> tuple[Path, str]:
    """The file, and how messages call it. A file at hand wins over a shipped space of the same name.

    `quickstart`, `quickstart.yaml` and `spaces/quickstart.yaml` all find the shipped space where
    no such file exists.
    """
    path, known = Path(path_or_name), shipped()
    if path.is_file():
        return path, str(path_or_name)
    if path.is_dir() and path.name not in known:
        raise UserError(f"{path}: is a folder; give a space file, or one of the shipped spaces: "
                        f"{', '.join(known)}")
    if path.parent in (Path("."), Path("spaces")) and path.suffix in ("", ".yaml") and path.stem in known:
        return known[path.stem], f"spaces/{path.stem}.yaml"
    raise UserError(f"{path}: no such space file{did_you_mean(path.stem, known)}; shipped spaces: "
                    f"{', '.join(known)}")


def text_of(path: Path, source: str) -> str:
    """The text of a space file. Raises `UserError` when it cannot be read."""
    try:
        return read_text(path, MOST_BYTES, "a space file")
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: is not UTF-8 text (byte {error.start}); is this a space file?") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror}") from None
