"""Trials of the quickstart a minute, once all that they share is there.

Runs on the checkout it is started in: `python benchmarks/probes/quickstart.py CACHE`. The whole product runs:
the command line, a local Ray, 16 trials, the front measured again. The first run on a cache makes what is
shared.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ENDED = ("complete", "stopped", "failed")


def main() -> None:
    cache = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as storage:
        (Path(storage) / "cache").symlink_to(cache, target_is_directory=True)
        subprocess.run([sys.executable, "-m", "search", "run", "quickstart", "--storage", storage],
                       stdout=subprocess.DEVNULL, check=True)
        run, = Path(storage).glob("quickstart-*")
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        share = json.loads((run / "front.json").read_text()).get("hypervolume")
    asked = [event["time"] for event in events if event["event"] == "ask"]
    ends: dict[int, dict] = {}
    for event in events:
        if event["event"] == "row" and event["state"] in ENDED:
            ends.setdefault(event["trial"], event)  # a member of the front has a second, of `finish`
    seconds = max(event["time"] for event in ends.values()) - min(asked)
    print(json.dumps({"trials_a_minute": 60 * len(asked) / seconds, "trials_s": seconds,
                      "complete": sum(event["state"] == "complete" for event in ends.values()),
                      "finish_s": events[-1]["time"] - min(asked) - seconds,
                      "whole_s": events[-1]["time"] - events[0]["time"], "share_of_box": share or 0.0}))


if __name__ == "__main__":
    main()
