"""A disk that fails once: at the n-th write, fsync or rename of this process, whoever makes it."""

import builtins
import errno
import io
import os
from contextlib import contextmanager

KINDS = ("write", "fsync", "rename")


class FailingDisk:
    """`failing(kind, n)`: within the block, the n-th call of that kind fails with EIO; of a write, half has
    reached the disk. `count` says how many there were. Opened files count below `folder`."""

    def __init__(self, folder):
        self.folder, self.kind, self.at, self.count = str(folder), "", 0, 0

    def _due(self, kind):
        if kind != self.kind:
            return False
        self.count += 1
        return self.count == self.at

    @contextmanager
    def failing(self, kind, at):
        self.kind, self.at, self.count = kind, at, 0
        kept = {name: getattr(os, name) for name in ("write", "fsync", "replace", "rename")}
        opened = io.open

        def write(handle, data):
            if self._due("write"):
                kept["write"](handle, bytes(data)[:len(data) // 2])
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return kept["write"](handle, data)

        def failing_call(name, kind):
            def call(*given, **named):
                if self._due(kind):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return kept[name](*given, **named)
            return call

        def open_file(path, mode="r", *given, **named):
            file = opened(path, mode, *given, **named)
            if any(letter in mode for letter in "wax+") and str(path).startswith(self.folder):
                return _File(file, self)
            return file

        os.write, os.fsync = write, failing_call("fsync", "fsync")
        os.replace, os.rename = failing_call("replace", "rename"), failing_call("rename", "rename")
        io.open = builtins.open = open_file
        try:
            yield self
        finally:
            for name, function in kept.items():
                setattr(os, name, function)
            io.open = builtins.open = opened


class _File:
    """An open file whose writes count."""

    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def write(self, data):
        if self._disk._due("write"):
            self._file.write(data[:len(data) // 2])
            self._file.flush()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __iter__(self):
        return iter(self._file)
