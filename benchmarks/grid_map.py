"""The map of `docs/granularity.md` from committed results:
`python -m benchmarks.grid_map granularity granularity_rms8`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from benchmarks.common import RESULTS
from dashboards.plot_splits import splits_png
from search.reporting.integer_fraction import Splits

OUT = Path(__file__).resolve().parents[1] / "docs" / "granularity.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+",
                        help="of JSON files in benchmarks/results that benchmarks.grid wrote")
    panels = [panel for name in parser.parse_args().names for panel in panels_of(RESULTS / f"{name}.json")]
    splits_png(panels, OUT, 110)
    print(f"wrote docs/{OUT.name}")


def panels_of(file: Path) -> list[Splits]:
    """A panel for each family and place of one result."""
    found = []
    for one in json.loads(file.read_text())["maps"]:
        rms = math.nan if one["rms"] is None else one["rms"]
        place = "table" if one["rest"] == "sites=embedding" else "every site"
        title = f"{place}, rows at RMS {rms:.2g}" if one["rms"] else place
        found.append(Splits(one["family"], title, rms, {(i, f): {0: mean} for i, f, mean, _ in one["costs"]}))
    return found


if __name__ == "__main__":
    main()
