"""report.html in a real browser without a network: every plot has data and pixels, in any width and either theme.

The screenshots lie beside the reports in pytest's temporary folder.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_runs import made_run
from chromium import Page, chromium, find_chromium

from bench.load.arrivals import Load
from bench.report.html import comparison_page
from bench.report.rundir import RunDir, write_atomically, write_series
from bench.stats.paired import Samples, judge

LATENCY = ["cdf-ttft", "cdf-tpot", "cdf-itl", "cdf-e2el"]
TIME = ["time-tokens", "time-open", "time-queue", "time-kv", "time-client", "failures"]
ONE_RUN = [*LATENCY, *TIME, "lanes", "heat", "prompts", "slices"]
LOADS = ["pareto-latency", "pareto-user", "load-latency", "load-throughput"]
ALL = ["all-ttft", "all-tpot", "all-itl", "all-e2el"]
PLOTS = {
    "run": ONE_RUN,
    "sweep": [*LOADS, *ALL, *ONE_RUN],
    "comparison": [*LOADS, *ALL, "both-tokens", "both-open", *ONE_RUN],
}
LOOKS = {"wide": (1280, "light"), "dark": (1280, "dark"), "narrow": (390, "light")}
SLO = "ttft_p99<500ms,tpot_p99<40ms"

# For each panel: its plot's series by number of values, and how many pixels of its canvas have colour: neither
# nothing, nor the greys of axes and text.
LOOK_AT_PANELS = """
[...document.querySelectorAll("figure.panel")].map((figure) => {
  const canvas = figure.querySelector("canvas");
  const chart = charts.find((one) => one.id === figure.id);
  const series = chart && chart.plot
    ? chart.plot.data.slice(1).map((values) => values.filter((value) => value != null).length)
    : [];
  let coloured = 0;
  if (canvas) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.length; i += 4) {
      const [low, high] = [Math.min(data[i], data[i + 1], data[i + 2]), Math.max(data[i], data[i + 1], data[i + 2])];
      if (data[i + 3] > 24 && high - low > 40) coloured++;
    }
  }
  return { id: figure.id, series, coloured, right: figure.getBoundingClientRect().right };
})
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("reports")
    run = made_run(place / "run", Load(rate=30.0, requests=150, max_concurrency=24), slo=SLO)
    run.write()

    def sweep(name: str, seed: int, speed: float) -> list[RunDir]:
        return [
            made_run(
                place / name / f"c{c}-{i}",
                Load(concurrency=c, requests=30 + 4 * c),
                seed=seed + i,
                speed=speed,
                slo=SLO,
            )
            for c in (2, 8, 32)
            for i in range(2)
        ]

    old, new = sweep("sweep", 1, 1.0), sweep("new", 50, 1.2)
    for each in old:
        each.write_data()
    write_series(place / "sweep", old[0].manifest, old)
    keys = ("output_throughput", "p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms")
    samples = {
        key: Samples([r.summary[key] for r in old], [r.summary[key] for r in new], key == keys[0]) for key in keys
    }
    page = comparison_page("Old and new", old, new, judge(samples), "Better on most metrics.")
    write_atomically(place / "comparison.html", page.encode())
    return {
        "run": run.path / "report.html",
        "sweep": place / "sweep" / "report.html",
        "comparison": place / "comparison.html",
    }


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium")
    with chromium(program) as browser:
        yield browser.page()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", PLOTS)
def test_every_plot_has_data(page, reports, kind, look):
    width, theme = LOOKS[look]
    page.look(width, theme=theme)
    page.requests.clear()
    page.complaints.clear()
    page.open(reports[kind])
    page.settle()
    panels = page.evaluate(LOOK_AT_PANELS)
    page.screenshot(reports[kind].with_name(f"{kind}-{look}.png"))
    assert page.complaints == []
    assert {url for url in page.requests if not url.startswith("data:")} == {reports[kind].as_uri()}
    assert [panel["id"] for panel in panels] == PLOTS[kind]
    assert {panel["id"]: panel["coloured"] for panel in panels if panel["coloured"] < 20} == {}
    assert [panel["id"] for panel in panels if 0 in panel["series"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert max(panel["right"] for panel in panels) <= width
    assert page.evaluate("document.documentElement.dataset.theme") == theme


def test_the_whole_of_every_series_is_plotted(page, reports):
    page.look(1280)
    page.open(reports["run"])
    same = page.evaluate("""
      const shown = report.runs[0];
      const drawn = (id) => charts.find((chart) => chart.id === id).plot.data;
      [
        drawn("time-tokens")[1].length === shown.flow.t.length,
        drawn("cdf-itl")[0].length >= shown.cdf.itl.x.length - 5,  // values that round to the same are one
        drawn("prompts")[0].length === shown.prompts.x.length,
        shown.lanes.rows.length === 150,
      ]
    """)
    assert same == [True] * 4


def test_the_theme_can_be_changed(page, reports):
    page.look(1280)
    page.open(reports["run"])
    ink = "getComputedStyle(document.body).backgroundColor + charts[0].plot.axes[0].stroke()"
    light = page.evaluate(ink)
    page.evaluate("document.getElementById('theme').click()")
    dark = page.evaluate(ink)
    assert light != dark
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(ink) == light
    assert page.complaints == []


def test_plots_follow_the_width(page, reports):
    page.look(1280)
    page.open(reports["run"])
    page.look(500)
    page.settle()
    widest = "Math.max(...[...document.querySelectorAll('canvas')].map((c) => c.getBoundingClientRect().right))"
    assert page.evaluate(widest) <= 500
    page.look(1280)
    page.settle()
    assert page.evaluate(widest) > 1000


@pytest.mark.parametrize("plot", ["time-tokens", "cdf-ttft", "prompts"])
def test_a_part_of_a_plot_can_be_looked_at_closer(page, reports, plot):
    page.look(1280)
    page.open(reports["run"])
    page.settle()
    page.evaluate(f"document.getElementById('{plot}').scrollIntoView()")
    left, top, width = page.evaluate(f"""(() => {{
      const box = document.querySelector("#{plot} .u-over").getBoundingClientRect();
      return [box.left, box.top, box.width];
    }})()""")
    shown = f"(({{ min, max }}) => [min, max])(charts.find((one) => one.id === '{plot}').plot.scales.x)"
    whole = page.evaluate(shown)
    page.drag(left + 0.4 * width, left + 0.6 * width, top + 30)
    part = page.evaluate(shown)
    assert whole[0] < part[0] < part[1] < whole[1]
    page.double_click(left + 0.5 * width, top + 30)
    assert page.evaluate(shown) == whole


def test_another_run_of_a_series_can_be_chosen(page, reports):
    page.look(1280)
    page.open(reports["sweep"])
    tokens = "charts.find((chart) => chart.id === 'time-tokens').plot.data[1]"
    before, count = page.evaluate(tokens), page.evaluate("charts.length")
    page.evaluate("""
      const choice = document.getElementById("run");
      choice.value = 0;
      choice.dispatchEvent(new Event("change"));
    """)
    assert page.evaluate(tokens) != before
    assert page.evaluate("charts.length") == count
    assert [panel["id"] for panel in page.evaluate(LOOK_AT_PANELS)] == PLOTS["sweep"]
    assert page.complaints == []


def test_lanes_tell_about_their_request(page, reports):
    page.look(1280)
    page.open(reports["run"])
    words = page.evaluate("""
      const canvas = document.querySelector("#lanes canvas");
      const at = { offsetX: 200, offsetY: 40 };
      canvas.dispatchEvent(Object.assign(new PointerEvent("pointermove", { bubbles: true }), {}));
      const event = new PointerEvent("pointermove");
      for (const [name, value] of Object.entries(at)) Object.defineProperty(event, name, { value });
      canvas.dispatchEvent(event);
      document.querySelector("#lanes .tip").textContent;
    """)
    assert "first token after" in words
    assert "tokens in" in words


def test_a_run_that_brought_nothing_says_so(page, tmp_path):
    run = made_run(tmp_path, Load(concurrency=1, requests=1))
    run.records, run.samples, run.health = [], [], []
    run.summary = {"completed": 0, "failed": 0, "verdict": "INVALID", "reasons": ["no request succeeded"]}
    run.write()
    page.look(1280)
    page.complaints.clear()
    page.open(tmp_path / "report.html")
    panels = page.evaluate(LOOK_AT_PANELS)
    assert [panel["id"] for panel in panels] == ONE_RUN
    # A line along zero is the truth of what happened over time; everything else has nothing to draw.
    assert {panel["id"] for panel in panels if panel["coloured"] > 20} == {"time-tokens", "time-open"}
    assert page.evaluate("document.querySelectorAll('.panel .empty').length") >= 10
    assert "no request succeeded" in page.evaluate("document.querySelector('.verdict').textContent")
    assert page.complaints == []
