import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from dashboards.plot import draw, front_png, read
from dashboards.plot_axes import label
from spaces.errors import UserError

ROWS = [
    {"trial": 0, "rung": 1, "state": "complete", "perplexity": 20.0, "latency_ms": 30.0, "ok": 0.5,
     "tag": "unquantized"},
    {"trial": 1, "rung": 0, "state": "rung", "perplexity": 90.0, "latency_ms": 10.0, "ok": 0.1},
    {"trial": 1, "rung": 1, "state": "complete", "perplexity": 40.0, "latency_ms": 10.0, "ok": 0.9,
     "perplexity_se": 2.0},
    {"trial": 2, "rung": 1, "state": "complete", "perplexity": 50.0, "latency_ms": 35.0, "ok": 0.4},
    {"trial": 3, "rung": 1, "state": "complete", "perplexity": 15.0, "latency_ms": 60.0, "ok": 0.3},
    {"trial": 4, "rung": 0, "state": "stopped", "perplexity": 800.0, "latency_ms": 20.0},
    {"trial": 5, "rung": 0, "state": "failed", "reason": "no memory"},
    {"trial": 6, "rung": 1, "state": "complete", "perplexity": 30.0, "latency_ms": 30.0, "ok": 0.95},
]
PPL, MS, OK = ({"metric": "perplexity", "direction": "minimize"},
               {"metric": "latency_ms", "direction": "minimize"}, {"metric": "ok", "direction": "maximize"})
FAST = {"metric": "latency_ms", "op": "<=", "bound": 40.0}


@pytest.fixture
def make(tmp_path):
    """A run folder as the files define it, written without the code that writes them in a run."""

    def write(objectives=(PPL, MS), members=(0, 1, 6), constraints=(FAST,), rows=ROWS):
        pd.DataFrame(rows).to_parquet(tmp_path / "trials.parquet")
        (tmp_path / "run.json").write_text(json.dumps({"name": "toy"}))
        (tmp_path / "front.json").write_text(json.dumps({
            "objectives": list(objectives), "constraints": list(constraints),
            "members": [row for row in rows if row["trial"] in members and row["state"] == "complete"]}))
        return tmp_path

    return write


def texts(figure):
    return [text.get_text() for panel in figure.axes for text in panel.texts]


def test_a_picture_of_the_front_is_written(make, tmp_path):
    out = front_png(make((PPL, MS, OK)), tmp_path / "front.png")
    image = imread(out)
    assert image.shape[1] > 1500 and image.shape[0] > 700
    lit = np.abs(image[..., :3] - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.02
    assert lit.sum() > 1000, "members are lit"


def test_every_trial_is_sorted_by_how_it_ended(make):
    picture = read(make())
    assert picture.members["trial"].tolist() == [0, 1, 6] and picture.complete == 5
    assert picture.members["perplexity"].tolist()[1] == 40.0, "the last rung counts"
    assert picture.others["trial"].tolist() == [2] and picture.out["trial"].tolist() == [3]
    assert picture.early["trial"].tolist() == [4] and picture.arm["trial"].tolist() == [0]


def test_the_legend_counts_and_names_the_arm(make):
    figure = draw(read(make()))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "stopped early (1, far ones at the edge)", "breaks a constraint (1)", "dominated (1)",
        "front (3)", "unquantized"]
    assert sorted(texts(figure)) == ["0", "1", "6"], "members carry their trial's number"


def test_each_further_objective_has_a_panel_and_wide_axes_are_logarithmic(make):
    rows = [{**row, "size_bytes": 1000.0 + row["trial"]} for row in ROWS]
    rows = [{**row, "perplexity": 800.0} if row["trial"] == 2 and row["state"] == "complete" else row
            for row in rows]
    figure = draw(read(make((PPL, MS, OK, {"metric": "size_bytes", "direction": "minimize"}), rows=rows)))
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_xlabel() for panel in panels] == ["latency (ms)   ← better", "ok   better →",
                                                        "size   ← better"]
    assert panels[0].get_ylabel() == "perplexity   ← better"
    assert panels[0].get_yscale() == "log" and panels[0].get_xscale() == "linear", (
        "20 to 800 against 10 to 60")


def test_a_stopped_trial_far_from_the_others_does_not_press_them_together(make):
    (panel,) = draw(read(make())).axes
    low, high = panel.get_ylim()
    assert low < 20.0 and 40.0 < high < 90.0, "20 to 40 are complete, one was stopped at 800"
    (early,) = [dots for dots in panel.collections if dots.get_label().startswith("stopped early")]
    assert low < early.get_offsets()[0, 1] < high


@pytest.mark.parametrize("across, style, joined, beaten", [
    (MS, "steps-post", {(10.0, 40.0), (30.0, 20.0)}, (30.0, 30.0)),  # 0 beats 6 on these two axes
    (OK, "steps-pre", {(0.5, 20.0), (0.95, 30.0)}, (0.9, 40.0)),  # 6 beats 1
])
def test_only_members_unbeaten_in_a_panel_are_joined(make, across, style, joined, beaten):
    (panel,) = draw(read(make((PPL, across), constraints=()))).axes
    (line,) = [line for line in panel.lines if line.get_drawstyle().startswith("steps")]
    corners = set(zip(*line.get_data(), strict=True))
    assert joined <= corners and beaten not in corners and line.get_drawstyle() == style


def test_what_was_measured_anew_stands_at_its_fresh_figures(make):
    fresh = {0: {"again": 2, "perplexity_again": 22.0, "latency_ms_again": 29.0, "latency_ms_again_sd": 0.5},
             1: {"again": 2, "perplexity_again": 41.0, "latency_ms_again": 11.0},
             6: {"again": 2, "perplexity_again": 31.0, "latency_ms_again": 52.8}}  # beyond the bound
    rows = [{**row, **(fresh.get(row["trial"], {}) if row["state"] == "complete" else {}),
             **({"place": "lost"} if row["trial"] == 6 else {})} for row in ROWS]
    picture = read(make(rows=rows))
    assert picture.members[["trial", "perplexity", "latency_ms"]].values.tolist() == [
        [0.0, 22.0, 29.0], [1.0, 41.0, 11.0]] and picture.lost["latency_ms"].tolist() == [52.8]
    assert picture.complete == 5 and picture.members["latency_ms_half"].round(2).tolist() == [4.49, 0.0]
    figure = draw(picture)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "front, measured anew (2)" in legend and "lost its place, measured anew (1)" in legend
    box, whole = figure.legends[0].get_window_extent(), figure.bbox  # all of it can be read
    assert len(figure.legends) == 1 and whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
    (front,) = [dots for dots in figure.axes[0].collections if dots.get_label().startswith("front")]
    assert sorted(map(tuple, front.get_offsets().tolist())) == [(11.0, 41.0), (29.0, 22.0)]


def test_a_constraint_on_an_axis_is_drawn(make):
    def dashed(figure):
        return [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]

    assert len(dashed(draw(read(make())))) == 1 and not dashed(draw(read(make(constraints=()))))


def test_one_objective_is_drawn_over_trials_with_the_best_so_far(make):
    (panel,) = draw(read(make((PPL,), members=(3,), constraints=()))).axes
    (line,) = [line for line in panel.lines if line.get_drawstyle() == "steps-post"]
    assert panel.get_xlabel() == "trial" and line.get_data()[1][:2].tolist() == [20.0, 15.0]


def test_a_front_without_members_and_trials_without_a_metric_can_be_drawn(make, tmp_path):
    rows = [{"trial": 0, "rung": 0, "state": "stopped", "perplexity": 3.0}]
    front_png(make((PPL, MS), members=(), rows=rows), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


@pytest.mark.parametrize("file", ["run.json", "front.json", "trials.parquet"])
def test_what_is_missing_or_damaged_is_named(make, file):
    run = make()
    (run / file).write_text("{")
    with pytest.raises(UserError, match="cannot be drawn"):
        read(run)
    (run / file).unlink()
    with pytest.raises(UserError, match=f"nothing to draw yet: no {file}"):
        read(run)


@pytest.mark.parametrize("metric, text", [
    ("latency_ms", "latency (ms)"), ("train_seconds", "train (s)"), ("size_bytes", "size"),
    ("trainable_params", "trainable parameters"), ("nll_bound", "nll bound")])
def test_units_follow_from_the_name(metric, text):
    assert label({"metric": metric, "direction": "minimize"}) == f"{text}   ← better"
