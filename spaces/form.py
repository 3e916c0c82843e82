"""`SpaceForm`: the keys of a space file, their types and defaults. `spaces.schema.Space` is what
they add up to."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator

from spaces.box import Corner
from spaces.config import HardwareConfig, Settings
from spaces.dimensions import Dimension
from spaces.objectives import METRIC, Constraint, Direction

MetricName = Annotated[str, StringConstraints(pattern=f"^{METRIC}$")]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd]\s*)+")


def seconds(text: str) -> float:
    """Seconds in a duration: `90s`, `30m`, `1h30m`; a bare number is seconds. Raises `ValueError`
    saying what is legal."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    if not _DURATION.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a duration; legal: 90s, 30m, 2h, 1h30m, 1d, "
                         "or a number of seconds")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([smhd])", text))


MOST = 1e9
"""Of every limit of a budget: 30 years in seconds."""


class BudgetConfig(Settings):
    """When the search ends: at whichever limit comes first. A grid also ends when every point has been tried.
    `bases` ends nothing: a space that may need more is refused before it begins."""

    trials: int | None = Field(None, ge=1, le=MOST, description="trials to start")
    time: float | None = Field(None, gt=0, le=MOST,
                               description="wall time: `90s`, `30m`, `2h`, `1h30m`, or a number of seconds")
    device_hours: float | None = Field(
        None, gt=0, le=MOST,
        description="hours times devices held (GPUs where trials hold any, else CPUs), idle ones included"
    )
    price: float | None = Field(None, gt=0, le=MOST,
                                description="of one device for one hour; every report then tells the money")
    money: float | None = Field(None, gt=0, le=MOST, description="most to spend, at `price`")
    patience: int | None = Field(None, ge=1, le=MOST,
                                 description="trials that may end one after another without a better front")
    gain: float = Field(0.0, ge=0, le=MOST, description="growth of the hypervolume (a share of its box) "
                                               "that `patience` counts as one")
    trial_time: float | None = Field(None, gt=0, le=MOST,
                                     description="for one rung of a trial, as `time`; "
                                                 "a trial that takes longer has failed")

    bases: int = Field(
        8, ge=1,
        description="most corpora, teachers and bases, each, that searched settings may ask for; one "
                    "is made when a trial first needs it"
    )

    @field_validator("time", "trial_time", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        return seconds(value) if isinstance(value, str) else value


class MethodConfig(Settings):
    """A method by name. Keys beside `name` are its own options; names and options are checked against
    the catalogue."""

    model_config = ConfigDict(extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options."""
        return dict(self.__pydantic_extra__ or {})


class SamplerConfig(MethodConfig):
    """What proposes the next trial. Keys beside `name` are the sampler's own options."""

    name: str = Field("ehvi", description="as `qdlm plugins searchers` lists them, with their options beside "
                                          "`name`; grid tries every point of a finite space in order")


class SchedulerConfig(MethodConfig):
    """What stops a trial early, at a rung. Keys beside `name` are the scheduler's own options."""

    name: str = Field("halving",
                      description="as `qdlm plugins schedulers` lists them; halving keeps about the best "
                      "1/eta of each rung, promotion stops what is not expected to be worth its remaining "
                                  "steps, none lets every trial run to its end")


class FinishConfig(Settings):
    """What happens to the members of the front when the search is over."""

    repeats: int = Field(1, ge=0, description="measurements of each member again, from its exported files, "
                                              "with fresh noise")
    retrain: int = Field(
        0, ge=0, description="training runs of each member again, at the full budget under fresh seeds; "
                             "2 and more give an interval that holds the luck of training"
    )


class SpaceForm(Settings):
    """A space file as typed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
                      description="of the run folder; default: the file name")
    description: str = Field("", description="one sentence for `qdlm spaces`")
    trial: dict[str, JsonValue] = Field({},
                                        description="fixed settings: any part of the trial settings below")
    search: dict[str, Dimension] = Field(min_length=1,
                                         description="dotted trial path to the values searched there")
    start: tuple[dict[str, JsonValue], ...] = Field(
        (), description="points to try first, in this order: searched path to value; "
                        "what a point leaves out is the sampler's. A point whose quantizer and adapter are "
                        "none settles the unquantized arm, which every space that has one tries first"
    )
    start_budgets: int = Field(
        0, ge=0, le=100,
        description="where calibration.bits are searched, points to try first from an integer program: the "
                    "bits that lose least (KL of each part of the base alone) at so many sizes, in equal "
                    "ratios up to the bound on size_bytes, if there is one"
    )
    objectives: dict[MetricName, Direction] = Field(min_length=1,
                                                    description="metric to minimize or maximize")
    constraints: tuple[str, ...] = Field(
        (), description="bounds such as `latency_ms <= 40` or `diversity >= 0.3`")
    box: dict[MetricName, tuple[Corner, Corner]] = Field(
        {}, description="objective to [best, worst]: the corners in which hypervolume is told, fixed so that "
                        "runs can be compared. Of latency_ms and size_bytes also shares of the base's own, "
                        "such as [0.05 base, 1.5 base], which mean the same on another machine. Default: "
                        "chosen from the first complete trials, and recorded"
    )
    budget: BudgetConfig = BudgetConfig()
    rungs: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="optimizer steps at which a trial is measured and may be stopped, increasing; "
                    "the last is the full budget. Default: once, at trial.adapt.optim.steps",
    )
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    hardware: HardwareConfig = HardwareConfig()
    finish: FinishConfig = FinishConfig()
    deterministic: int = Field(
        0, ge=0, description="W > 0: proposal k depends on the results of trials up to k - W alone, told in "
                             "their order, so any timing and any number of workers give the same search; "
                             "at most W trials run at once. 0: use every result at once"
    )
    seed: int = Field(0, ge=0, description="of the sampler; the trials' own seed is trial.seed")
    track: tuple[str, ...] = Field((), description="trackers that are told of trials as they go: mlflow, "
                                                   "tensorboard, trackio, wandb (`qdlm plugins trackers`)")

    @field_validator("constraints")
    @classmethod
    def _constraints(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        parsed = [Constraint.parse(text) for text in texts]
        for one in parsed:
            for other in parsed:
                if (one.metric == other.metric and (one.op, other.op) == (">=", "<=")
                        and one.bound > other.bound):
                    raise ValueError(f"no value can satisfy both {one} and {other}")
        return texts

    @field_validator("rungs")
    @classmethod
    def _increasing(cls, rungs: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if rungs and any(later <= earlier for earlier, later in zip(rungs, rungs[1:], strict=False)):
            raise ValueError(f"{list(rungs)} should increase; legal: {sorted(set(rungs))}")
        return rungs
