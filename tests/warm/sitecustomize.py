"""Read by every Python that starts with this folder on its path: what Ray's own command, or a driver of the
tests, then starts as Python is the `warm_python` that the environment names."""

import os
import sys

STARTERS = {"ray", "toy_driver.py", "metrics_node.py"}

if STARTERS & {os.path.basename(name) for name in sys.orig_argv[1:2]}:
    sys.executable = os.environ.get("WARM_PYTHON", sys.executable)
