"""Folders at a URI, by pyarrow's file systems: what one node makes and others fetch. Credentials are those
that pyarrow finds.

Errors of the network are tried again with growing pauses; what stays wrong is raised as
`StoreError`, in one line.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow
from pyarrow import fs

from spaces.errors import UserError
from spaces.uris import checked, is_uri
from trainable.storage.folders import MANIFEST, damage, plain_name

Found = TypeVar("Found")
TRIES, PAUSE_S = 5, 1.0
"""How often something is tried, and the first pause; each pause is twice the one before."""
FLAT = ("s3", "gcs", "abfs")
"""Object stores: no folders to make, and a file appears whole."""


class StoreError(UserError):
    """A store that cannot be read or written."""


def opened(place: str) -> tuple[fs.FileSystem, str]:
    """File system and path of a URI or a folder. Raises `UserError` for a scheme that is unknown."""
    try:
        if not is_uri(place):
            return fs.LocalFileSystem(), str(Path(place).resolve())
        if place.startswith("file://"):
            return fs.LocalFileSystem(), unquote(urlsplit(place).path).rstrip("/")
        system, path = fs.FileSystem.from_uri(checked(place))
        return system, path.rstrip("/")
    except UserError:
        raise
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{place}: {_line(error)}") from error


Listed = TypeVar("Listed")


def plain_names(found: dict[str, Listed], place: str) -> dict[str, Listed]:
    """A listing whose names all stay below the folder that they would be written to. Raises `StoreError`."""
    for name in found:
        if not plain_name(name):
            raise StoreError(f"{place}: holds a name that no run writes: {name[:200]!r}; delete it there")
    return found


class Store:
    """Files below one URI, by names with slashes."""

    def __init__(self, uri: str, tries: int = TRIES, pause: float = PAUSE_S,
                 sleep: Callable[[float], None] = time.sleep):
        self.uri, self.tries, self.pause, self.sleep = uri, tries, pause, sleep
        self.fs, self.base = opened(uri)
        self._local = fs.LocalFileSystem()

    def sizes(self, name: str = "") -> dict[str, int]:
        """Files below `name` (relative to it) with their bytes; empty when there is nothing."""
        at = self._at(name)

        def look() -> dict[str, int]:
            found = self.fs.get_file_info(fs.FileSelector(at, recursive=True, allow_not_found=True))
            return {info.path[len(at) + 1:]: info.size for info in found if info.type == fs.FileType.File}

        return plain_names(self._tried("read", name, look), self.uri)

    def folders(self, name: str) -> list[str]:
        """Names of the folders directly below `name`."""
        def look() -> list[str]:
            found = self.fs.get_file_info(fs.FileSelector(self._at(name), allow_not_found=True))
            return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

        return self._tried("read", name, look)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return self._tried("read",
                           name, lambda: self.fs.get_file_info(self._at(name)).type == fs.FileType.File)

    def read(self, name: str) -> bytes | None:
        """A small file; None when it is not there."""
        def read() -> bytes | None:
            if self.fs.get_file_info(self._at(name)).type != fs.FileType.File:
                return None
            with self.fs.open_input_stream(self._at(name)) as file:
                return file.read()

        return self._tried("read", name, read)

    def write(self, name: str, content: bytes) -> None:
        """Put a small file, whole or not at all."""
        def write() -> None:
            with self._whole(name) as at, self.fs.open_output_stream(at) as file:
                file.write(content)

        self._tried("write", name, write)

    def put(self, source: Path, name: str) -> None:
        """Put a file, whole or not at all; one that is appended to meanwhile may be longer
        there than it was."""
        def put() -> None:
            size = source.stat().st_size
            with self._whole(name) as at:
                fs.copy_files(str(source), at, source_filesystem=self._local, destination_filesystem=self.fs)
            arrived = self.fs.get_file_info(self._at(name)).size or 0
            if not size <= arrived <= source.stat().st_size:  # unsigned uploads may keep the wire's framing
                raise OSError(f"{arrived:,} bytes arrived, {size:,} were sent; "
                              "are credentials set on this node?")

        self._tried("write", name, put)

    def put_folder(self, source: Path, name: str) -> None:
        """Put every file of a folder, its manifest last: what has one is whole."""
        files = sorted(path for path in source.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path == source / MANIFEST):
            self.put(path, f"{name}/{path.relative_to(source).as_posix()}")

    def get(self, name: str, target: Path) -> None:
        """Fetch a file into place, whole or not at all. Raises `StoreError`, also when it is not there."""
        aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._tried("read",
                        name, lambda: fs.copy_files(self._at(name), str(aside), source_filesystem=self.fs,
                                                    destination_filesystem=self._local))
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def get_folder(self, name: str, target: Path) -> None:
        """Fetch a folder that has a manifest, into place in one step. What is damaged, also when it
        is read again, is a `StoreError`."""
        aside = target.with_name(f".{target.name}.{os.getpid()}.partial")

        def fetch() -> None:
            shutil.rmtree(aside, ignore_errors=True)
            for file in self.sizes(name):
                self.get(f"{name}/{file}", aside / file)
            wrong = damage(aside)
            if wrong:
                raise OSError(f"it is damaged ({wrong.replace(str(aside), name)}); delete it there")

        try:
            self._tried("read", name, fetch)
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Delete a file or a folder with all that is in it; nothing happens when it is not there."""
        def remove() -> None:
            kind = self.fs.get_file_info(self._at(name)).type
            if kind == fs.FileType.Directory:
                self.fs.delete_dir(self._at(name))
            elif kind == fs.FileType.File:
                self.fs.delete_file(self._at(name))

        self._tried("write", name, remove)

    def _at(self, name: str) -> str:
        return f"{self.base}/{name}" if name else self.base

    def _whole(self, name: str) -> _Whole:
        return _Whole(self.fs, self._at(name))

    def _tried(self, what: str, name: str, act: Callable[[], Found]) -> Found:
        for attempt in range(self.tries):
            try:
                return act()
            except (OSError, pyarrow.ArrowException) as error:
                if attempt == self.tries - 1 or isinstance(error, FileNotFoundError | PermissionError):
                    raise StoreError(f"{self.uri}: cannot {what} {name or 'it'}: {_line(error)}") from error
            self.sleep(self.pause * 2**attempt)
        raise AssertionError("unreachable")


class _Whole:
    """The path to write to, so that the file appears in one step; its folder is made where the file
    system has folders."""

    def __init__(self, system: fs.FileSystem, target: str):
        self.fs, self.target = system, target
        above, _, name = target.rpartition("/")
        self.flat = system.type_name in FLAT
        self.path = target if self.flat else f"{above}/.{name}.{os.getpid()}.partial"

    def __enter__(self) -> str:
        if not self.flat:
            self.fs.create_dir(self.target.rpartition("/")[0], recursive=True)
        return self.path

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and not self.flat:
            self.fs.move(self.path, self.target)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(" (Request ID")[0] if lines else type(error).__name__
