"""What a run says of its text, in the log, in `status` and in the report; unknown words in what it wrote."""

from report_runs import write_run

from search.cli.main import main
from search.cli.progress import EventText
from search.records.run_folder import RunFolder
from search.reporting.corpora import corpus_lines, unknown_line
from search.reporting.report import collect

READY = {"event": "prepare", "stage": "corpus", "progress": 1.0, "seconds": 2.0, "path": "c",
         "sentences": {"train": 42059, "valid": 4669}, "dropped": {"train": 2, "valid": 3},
         "empty": {"train": 1, "valid": 0}, "mean_words": {"train": 22.41, "valid": 20.0},
         "unk_rate": {"train": 0.006, "valid": 0.0049}}
LINE = ("42,059 + 4,669 sentences (training + held out) of 22.4 words; left out: 2 + 3 too long, "
        "1 + 0 without words; UNK 0.6 + 0.5 % of words")


def test_log_status_and_report_tell_what_is_left_of_the_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    run = write_run(tmp_path, 3)
    with RunFolder.open(run).lock() as folder:
        folder.event(READY)
        folder.close("finished")
    assert LINE in (EventText(()).line(READY) or "")
    assert main(["status", str(run)]) == 0 and LINE in capsys.readouterr().out
    assert collect(run)["corpora"] == [LINE]


def test_each_corpus_of_a_run_has_its_line_and_older_runs_tell_no_empty_rows():
    older = {key: value for key, value in READY.items() if key != "empty"}
    found = corpus_lines([READY, {**older, "stage": "corpus 2"}, {"event": "prepare", "stage": "base"}])
    assert found == [f"corpus: {LINE}", f"corpus 2: {LINE.replace(', 1 + 0 without words', '')}"]


def test_what_is_measured_when_the_search_is_over_is_not_called_prepared():
    stage = {"event": "prepare", "stage": "measuring the front again", "after": True}
    text = EventText(())
    half, whole = (text.line({**stage, "progress": progress}) or "" for progress in (0.5, 1.0))
    assert half.endswith("[/]  measuring the front again 50%")
    assert whole.endswith("[/]  measuring the front again [green]done[/]")


def test_unknown_words_of_the_worst_member_stand_beside_those_of_real_text():
    rows = [{"trial": 1, "unk_share": 0.002}, {"trial": 3, "unk_share": 0.012, "unk_share_heldout": 0.006}]
    assert unknown_line(rows) == "at most 1.2 % of the words (trial 3); real text 0.6 %"
    assert unknown_line([{"trial": 1}]) is None
