"""The report in a real headless Chromium: one browser, one page, at desktop and phone width,
light and dark."""

import shutil
import time

import pytest
from report_runs import HOSTILE, write_run

from dashboards.report import write_report
from search.reporting.report import collect

webdriver = pytest.importorskip("selenium.webdriver",
                                reason="no selenium: make install, or pip install selenium")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER),
                                reason="no chromium with chromedriver: apt-get install chromium-driver")
CONTRAST = """
const level = color => {
  const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(value => value / 255)
    .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const back = level(getComputedStyle(document.querySelector('.card')).backgroundColor);
return ['h1', '.note', '#membertable td', '.best', '.fact span'].map(name => {
  const front = level(getComputedStyle(document.querySelector(name)).color);
  return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
});
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("runs"), 40)
    page = write_report(collect(run), run / "report.html")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
                     "--enable-unsafe-swiftshader", "--window-size=1366,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(page.as_uri())
    until(lambda: ready(driver, "front"))
    yield driver
    driver.quit()


def until(holds, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the page did not get there"
        time.sleep(0.05)


def ready(driver, name):
    driver.execute_script(f"document.querySelector('[data-figure={name}]').scrollIntoView()")
    return driver.execute_script(f"return document.querySelector('[data-figure={name}]').dataset.ready")


def test_every_figure_is_drawn_and_nothing_of_the_run_runs(browser):
    for name in ("front", "dimensions", "parallel", "importance", "volume", "curves"):
        until(lambda name=name: ready(browser, name))
        assert browser.execute_script(f"return document.querySelectorAll('[data-figure={name}] "
                                      ".main-svg').length") > 0
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.querySelectorAll('main img').length") == 0
    assert HOSTILE in browser.execute_script("return document.getElementById('samplebody').textContent + "
                                             "document.getElementById('stoptable').textContent")
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(item => item.name)")
    assert [name for name in fetched if not name.startswith(("blob:", "data:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_click_shows_the_record_and_three_dimensions_turn_on(browser):
    browser.execute_script("document.querySelectorAll('#membertable tbody tr')[1].click()")
    trial = browser.execute_script("return document.querySelectorAll('#membertable tbody "
                                   "tr')[1].dataset.trial")
    assert ("for scale: perplexity 3.5."
            in browser.execute_script("return document.getElementById('membernote').textContent"))
    detail = browser.execute_script("return document.getElementById('detail').textContent")
    assert f"Trial {trial}" in detail and "Full record" in detail and "quantizer" in detail
    browser.execute_script("""const plot = document.querySelector('[data-figure=front] .plot');
        plot.emit('plotly_click', {points: [{customdata: 0}]})""")
    detail = browser.execute_script("return document.getElementById('detail').textContent")
    assert "Trial 0" in detail and "unquantized" in detail and HOSTILE in detail
    browser.execute_script("document.getElementById('three').click()")
    kind = "return document.querySelector('[data-figure=front] .plot').data[0].type"
    until(lambda: browser.execute_script(kind) == "scatter3d")
    browser.execute_script("document.getElementById('two').click()")


def test_a_trial_far_off_does_not_press_the_front_into_a_corner(browser):
    ranges = """const at = state.data.trials.state.indexOf("stopped"), values = state.data.trials.perplexity;
      const own = values[at];
      values[at] = arguments[0] ?? own;
      const {traces, layout} = FIGURES.front(), note = document.getElementById("frontnote").textContent;
      values[at] = own;
      return [layout.yaxis.range, traces.find(item => item.name.startsWith("front")).y, note,
              layout.yaxis.type];"""
    browser.execute_script("const up = document.getElementById('ay'); up.value = 'perplexity'; "
                           "up.dispatchEvent(new Event('change'))")
    (low, high), members, _, _ = browser.execute_script(ranges)
    assert low < min(members) and max(members) < high
    (far_low, far_high), _, note, kind = browser.execute_script(ranges, 1e6)
    assert (far_low >= low and far_high <= high and kind == "linear"
            and "outside: a double click shows all" in note)


def test_hover_texts_and_csv_hold_hostile_values_as_text(browser):
    shown = browser.execute_script("return plain(arguments[0])", HOSTILE)
    assert "<" not in shown and "&amp;lt;b&amp;gt;" in shown
    table = browser.execute_script("return csvOf([{name: '=2+5', x: [1], y: ['a,\"b'], customdata: [3]}])")
    assert table == 'series,trial,x,y,z\n\'=2+5,3,1,"a,""b",'
    points = browser.execute_script("return csvOf(FIGURES.front().traces)").splitlines()
    assert points[0] == "series,trial,x,y,z" and len(points) > 30


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
def test_it_fits_and_can_be_read(browser, width, scheme):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500})
    browser.execute_script(f"setTheme('{scheme}')")
    until(lambda: browser.execute_script("return innerWidth") == width)
    until(lambda: browser.execute_script("return document.documentElement.scrollWidth") <= width)
    assert min(browser.execute_script(CONTRAST)) >= 4.5, "WCAG AA"
    plot = "return document.querySelector('[data-figure=front] .plot').getBoundingClientRect().width"
    assert browser.execute_script(plot) > (300 if width < 500 else 700)


def test_sections_fit_in_one_line_and_what_a_user_can_afford_comes_first(browser):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    rows = "return [...document.querySelectorAll('#nav a')].map(link => link.offsetTop)"
    until(lambda: len(set(browser.execute_script(rows))) == 1)
    axes = browser.execute_script("return [...document.getElementById('ax').options].map(item => item.value)")
    assert axes[0] == "latency_ms", "the one cost among this run's objectives"
    assert browser.execute_script("return document.querySelector('#ax [selected]').value") == "latency_ms"


def test_what_is_printed_is_whole(browser):
    browser.refresh()
    until(lambda: browser.execute_script("return document.documentElement.dataset.loaded"))
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    drawn = "return document.querySelectorAll('[data-figure]:not([data-ready])').length"
    until(lambda: browser.execute_script(drawn) == 0)
    folded = "return document.querySelectorAll('details:not([open])').length"
    assert browser.execute_script(folded) == 0, "the space and the full record are on paper too"
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(folded) == 2
