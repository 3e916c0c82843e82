"""`python -m search` is `qdlm`."""

import sys

from search.cli import main

sys.exit(main())
