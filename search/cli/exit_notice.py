"""A line for the user of a search that was killed: by hand, for want of memory, or by Ray when its
node died under it.

Such a process says nothing itself. A small one of its own waits for its end and, unless told that all is in
order, says how to go on.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

WAITING = """
import signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
if not sys.stdin.buffer.read():
    print(sys.argv[1], file=sys.stderr)
"""


class ExitNotice:
    """Says `line` on standard error when this process ends without having called `dismiss`."""

    def __init__(self, line: str):
        self._process = subprocess.Popen([sys.executable, "-I", "-S", "-c", WAITING, line],
                                         stdin=subprocess.PIPE,
                                         stdout=subprocess.DEVNULL, start_new_session=True)

    def dismiss(self) -> None:
        """This process can speak for itself. Calling it again changes nothing."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b".")
                self._process.stdin.close()
        self._process.wait()
