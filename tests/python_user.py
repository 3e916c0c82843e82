"""What a user's typed program looks like; `test_types` has mypy read it, strictly. It is not run."""

from __future__ import annotations

from pathlib import Path

import qdlm


class Log(qdlm.Callback):
    """Writes down what ended."""

    def on_trial_complete(self, event: qdlm.TrialFinished) -> None:
        print(event["trial"], event["state"], event["seconds"] / 3600)


def tell(event: qdlm.EngineEvent) -> None:
    """A callback may be a function."""
    if event["event"] == "rung":
        print(event["rung"] + 1, "of", event["of"])


def search(text: Path) -> list[str]:
    """Search, choose, generate."""
    space = qdlm.Space.from_yaml(text.read_text(), str(text))
    run: qdlm.Run = qdlm.run(space, n_trials=8, callbacks=[Log(), tell])
    try:
        best = run.best("perplexity", within=["size_bytes <= 200kB"])
    except qdlm.UserError:
        return []
    money: float = sum(trial.money or 0.0 for trial in run.trials)
    print(best.params, money, run.to_pandas().shape[0])
    if best.artifact is None:
        return []
    model: qdlm.Model = qdlm.load(best.artifact)
    return model.generate(4, control={"length": 12})
