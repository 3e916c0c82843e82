"""How long the report of a run takes to write, how large it is, and when a browser has drawn its front.

    python -m benchmarks.report            1,000 and 10,000 made-up trials
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import save
from dashboards.report import write_report
from search.reporting.report import collect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def drawn(page: Path) -> float | None:
    """Seconds from opening the page to its first figure, in headless Chromium; None where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1366,900"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.get(page.as_uri())
        while not browser.execute_script(
                "return document.querySelector('[data-figure=front]').dataset.ready"):
            time.sleep(0.02)
        return browser.execute_script("return performance.now()") / 1000
    finally:
        browser.quit()


def main() -> None:
    """Measure and write."""
    from report_runs import write_run

    results = []
    for trials in (10, 1_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            run = write_run(Path(folder), trials)
            started = time.perf_counter()
            page = write_report(collect(run), run / "report.html")
            seconds = time.perf_counter() - started
            results.append(
                {"trials": trials, "write_seconds": seconds, "megabytes": page.stat().st_size / 1e6,
                 "first_figure_seconds": min(filter(None, (drawn(page) for _ in range(3))), default=None)})
            print(results[-1], flush=True)
    save("report", {"rows": results})


if __name__ == "__main__":
    main()
