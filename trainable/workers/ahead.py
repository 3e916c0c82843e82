"""`python -m trainable.workers.ahead PARENT`: make a corpus before there are workers for it. PARENT: the
process with which it ends; on standard input stands a prepare job's payload.

Says on standard output how many seconds it took. What goes wrong here goes wrong in the job too, which says
so.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

from spaces.config import TrialConfig
from spaces.errors import UserError
from trainable.parent import end_with_parent
from trainable.stages.prepare import prepare_corpus


def main() -> None:
    """Make the corpus in the cache, where it is not yet."""
    began = time.monotonic()
    end_with_parent(int(sys.argv[1]))
    payload = json.load(sys.stdin)
    with contextlib.suppress(UserError):
        with contextlib.redirect_stdout(sys.stderr):  # a source may say what it likes
            for _ in prepare_corpus(TrialConfig.model_validate(payload["config"]), Path(payload["cache"])):
                pass
        print(round(time.monotonic() - began, 3))


if __name__ == "__main__":
    main()
