"""A trial's few readable sentences: bounded, told with their targets, and not counted as size."""

import json

from trainable.metrics.size import folder_bytes
from trainable.stages.evaluation import EXAMPLES, Measurement


class Task:
    """Asks for a length."""

    name = "length"

    def said(self, target):
        return f"{target['length']} words"

    def score(self, words, target):
        return {"success": float(len(words) == target["length"])}


def test_examples_are_few_and_say_what_was_asked():
    measurement = Measurement.__new__(Measurement)
    measurement.examples = []
    measurement.note_examples(Task(), [{"length": 2, "row": 7}] * 20, [["a", "b"]] * 20)
    measurement.__dict__["_sentences"] = [["x"]] * 20
    shown = measurement.shown()
    assert len(shown) == 2 * EXAMPLES and shown[0] == {"task": "", "target": "", "text": "x", "success": None}
    assert shown[-1] == {"task": "length", "target": "2 words", "text": "a b", "success": 1.0}
    json.dumps(shown)


def test_samples_do_not_count_as_size(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    (tmp_path / "samples.json").write_text("[]" * 100)
    assert folder_bytes(tmp_path) == 4
