"""A run in a process of its own, for tests that kill or interrupt it: toy_driver.py SPACE STORAGE.

Prints `EVENT trial state` per event. Exit code 1 after Ctrl-C.
"""

import signal
import sys
from pathlib import Path

from search.run import sweep
from spaces.schema import load


def print_event(event):
    print(event["event"], event.get("trial", "-"), event.get("state", "-"), flush=True)


if __name__ == "__main__":
    # a shell may have started all this in the background, deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(sweep.run(load(sys.argv[1]), storage=Path(sys.argv[2]), observer=print_event, cpus=1,
                        jobs="toy_jobs:JOBS").run_folder)
    except KeyboardInterrupt:
        sys.exit(1)
