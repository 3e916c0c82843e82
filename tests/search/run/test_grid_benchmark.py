"""`benchmarks.grid`: a grid that is stopped goes on where it was, and ends in the table of `qdlm table`."""

import json

import pytest
from small_grid import SPACE

from benchmarks import common, grid

COST = {"none": 0.0, "fixed0": 0.1, "fixed4": 1.0}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The points that were trained, in order; training takes no time here."""
    path, done = tmp_path / "small.yaml", []
    path.write_text(SPACE)

    def trial(payload, context):
        config = payload["config"]
        quantizer = config["quantization"]["quantizer"]
        done.append((quantizer["name"] + str(quantizer.get("int_bits", "")), config["seed"]))
        yield {"ready": True}
        for rung, steps in enumerate(payload["rungs"]):
            value = 5 - rung + COST[done[-1][0]] + 0.1 * config["seed"]
            yield {"rung": rung, "steps": steps, "final": rung == 1, "nll_bound": value, "embedding_rms": 0.5}
    monkeypatch.setattr(grid, "prepared", lambda *_: {"corpus": "c", "teacher": "t", "base": "b"})
    monkeypatch.setitem(grid.JOBS, "trial", trial)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")

    def walk(*more):
        monkeypatch.setattr("sys.argv", ["grid.py", str(path), "--cache", "c",
                                         "--rows", str(tmp_path / "rows.jsonl"), *more])
        grid.main()
    return walk, done, tmp_path


def test_a_stopped_grid_goes_on_and_then_tells_its_table(trained):
    walk, done, folder = trained
    walk("--minutes", "0.0000001")
    assert len(done) < 2 and not (folder / "results").exists()
    walk()
    assert len(done) == 6 == len(set(done))
    rows = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text(rows[:-20])  # killed while it wrote
    walk("--name", "again")
    assert len(done) == 7 and done[-1] == ("fixed4", 1)
    found = json.loads((folder / "results" / "again.json").read_text())
    assert (found["seeds"] == 2
            and [arm["quantizer"] for arm in found["arms"]] == ["none", "fixed:Q0i4f", "fixed:Q4i0f"])
    assert found["arms"][2]["nll_bound minus none"] == pytest.approx([1.0, 0.0], abs=1e-4)
    assert "integer-only costs +0.90" in found["answer"][0]
    assert {tuple(point[0] for point in curve) for curve in found["curves"].values()} == {(30, 60)}
