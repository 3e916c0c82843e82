"""Checks a space against what is really there: plug-ins and their parameters, metrics, samplers.
Before Ray starts.

`spaces` alone knows the settings; only the plug-ins know that fixed point without a bit is impossible.
So every plug-in that the space can reach is built once, at every combination of its searched parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from search.options import OptionError
from search.pareto.process_bounds import mixed_bounds, searched_processes
from search.run.adapter_rules import check_intervals
from search.run.allocation import check_budgets
from search.run.calibration_rules import check_calibration
from search.run.plugin_uses import KINDS, unusable, uses, uses_of
from search.run.sampler_rules import check_sampler_rules
from search.run.supernet_rules import check_supernet
from search.samplers import registry as catalogue
from search.schedulers import registry as schedulers
from search.schedulers.successive_halving import Problem
from search.trackers.registry import tracker
from spaces import points
from spaces.config import PluginRef
from spaces.errors import UserError
from spaces.paths import settings_in
from spaces.rules import reached, tree_at, trial_tree
from spaces.schema import Space, load
from spaces.shared import PLURAL, combinations, deciding, demand
from spaces.values import did_you_mean
from trainable.registry import (
    BACKBONES,
    CORPORA,
    METRICS,
    PROCESSES,
    TASKS,
)

_CONDITIONS, _GUIDANCE = "model.conditions", "evaluation.guidance.by"
_TOKENIZER = "corpus.tokenizer"
_BASE_GROUPS = ("corpus", "model", "diffusion", "base")
_WORKERS = 1000  # most that a message proposes
_NEVER_EMPTY = {
    "lora.targets": "is empty: no matrix would get an adapter, whatever its rank; "
                    "for none write lora.rank: 0",
    "quantization.sites": "is empty: the quantizer would act nowhere; for none write quantizer: none, "
                          "or use per_site",
}
"""Lists whose emptiness would make a trial another one than its settings say."""


def load_checked(path_or_name: str | Path, changes: Mapping[str, Any] | None = None) -> Space:
    """`spaces.schema.load`, then `check`. Raises `UserError`: one line naming file, key and what is legal."""
    space = load(path_or_name, changes)
    check(space)
    return completed(space)


def check(space: Space) -> None:
    """Raises `UserError` when the space reaches something that does not exist or cannot be built."""
    check_metrics(space)
    check_lists(space)
    check_plugins(space)
    check_calibration(space)
    check_supernet(space)
    check_intervals(space)
    check_budgets(space)
    check_rules(space)
    check_sampler_rules(space)
    check_conditions(space)
    check_methods(space)
    check_track(space)
    check_batches(space)
    check_shared(space)


def check_batches(space: Space) -> None:
    """Every batch that `hardware.workers` train on is shared equally, wherever its size comes from.

    A share without a sentence has no mean, and DDP would weigh the sentences of a small share more. All
    workers of a group train a trial, and its base unless one is given; a teacher is trained by one.
    """
    workers = space.hardware.workers
    for path in ("base.optim.batch_size", "adapt.optim.batch_size"):
        decisive = [name for name in space.dimensions if name in (path, "base.path")]
        for point in points.reachable(space.dimensions, decisive):
            tree = trial_tree(space.form, point)
            size = tree_at(tree, path)
            if size % workers and not (path.startswith("base.") and tree_at(tree, "base.path")):
                raise space.error(_batch_key(space, path), _unequal(path, size, workers))


def _unequal(path: str, size: int, workers: int) -> str:
    """What is wrong with a batch, with the nearest legal ones and the most workers that could share it."""
    below = size - size % workers
    near_by = " or ".join(str(number) for number in (below, below + workers) if number)
    fewer = max(number for number in range(1, min(size, workers, _WORKERS) + 1) if size % number == 0)
    return (f"{path}={size} cannot be shared equally by hardware.workers={workers}; "
            f"legal: a multiple of {workers}, such as {near_by}, or hardware.workers: {fewer}")


def _batch_key(space: Space, path: str) -> tuple[str, ...]:
    """What the user wrote: the batch where it is searched or set, else the workers."""
    written = path in space.dimensions or path in dict(settings_in(space.form.trial))
    return _key(space, path) if written else ("hardware", "workers")


def notes(space: Space) -> Iterator[str]:
    """What the space asks for and will not get, each in one line. Nothing that a run could not go on with."""
    searched = space.dimensions.get("runtime.compile")
    if not space.hardware.gpus and (True in searched.values() if searched else space.example.runtime.compile):
        yield "runtime.compile is for CUDA, and hardware.gpus is 0: it changes nothing"
    metrics = [item.metric for item in space.objectives] + [item.metric for item in space.constraints]
    mixed = mixed_bounds(metrics, searched_processes(space))
    if mixed:
        yield mixed


def completed(space: Space) -> Space:
    """The same space with every default of its backbone and process written out, so that a later default
    cannot change a run.

    Where the name itself is searched nothing is written: what there is depends on the name.
    """
    trial = dict(space.form.trial)
    for path, registry in KINDS[:2]:
        if path in space.dimensions or f"{path}.name" in space.dimensions:
            continue
        ref = PluginRef.model_validate(tree_at(trial_tree(space.form, {}), path))
        fields = registry.get(ref.name).Params.model_fields
        defaults = to_jsonable_python({name: field.get_default(call_default_factory=True)
                                       for name, field in fields.items() if not field.is_required()})
        trial[path] = {"name": ref.name, **{name: value for name, value in {**defaults, **ref.params}.items()
                                            if f"{path}.{name}" not in space.dimensions}}
    return Space(space.form.model_copy(update={"trial": trial}), space.complaints)


def check_metrics(space: Space) -> None:
    """Objectives and constraints name metrics that are measured, and no objective looks the wrong way.

    A further column of a metric, `controllability_length`, is accepted where `controllability` is a metric.
    """
    further = tree_at(trial_tree(space.form, {}), "evaluation.metrics") or ()
    for index, metric in enumerate(further):
        if metric not in METRICS.entries:
            raise space.error(("trial", "evaluation", "metrics", index),
                              f"unknown metric {metric!r}{did_you_mean(metric, METRICS)}; legal: "
                              f"{', '.join(METRICS)}")
    named: list[tuple[tuple[str | int, ...], str]]
    named = [(("objectives", objective.metric), objective.metric) for objective in space.objectives]
    named += [(("constraints", index), constraint.metric)
              for index, constraint in enumerate(space.constraints)]
    for key, metric in named:
        if metric not in METRICS.entries and not any(metric.startswith(f"{name}_") for name in METRICS):
            raise space.error(key, f"unknown metric {metric!r}{did_you_mean(metric, METRICS)}; legal: "
                                   f"{', '.join(METRICS)}")
        tasks = tree_at(trial_tree(space.form, {}), "evaluation.control_tasks")
        if metric.startswith("controllability") and not tasks:
            message = f"{metric} needs a control task; legal: {', '.join(TASKS)}"
            raise space.error(("trial", "evaluation", "control_tasks"), message)
    for objective in space.objectives:
        if objective.metric in METRICS.entries:
            better = METRICS.get(objective.metric).direction
            if better != objective.direction:
                size = "lower" if better == "minimize" else "higher"
                message = f"{size} {objective.metric} is better; write {objective.metric}: {better}"
                raise space.error(("objectives", objective.metric), message)


def check_lists(space: Space) -> None:
    """Raises `UserError` for a list that is empty where that says another thing than the
    settings beside it."""
    for path, message in _NEVER_EMPTY.items():
        dimension = space.dimensions.get(path)
        if dimension is None and not tree_at(trial_tree(space.form, {}), path):
            raise space.error(("trial", *path.split(".")), message)
        for index, value in enumerate(dimension.choice or () if dimension is not None else ()):
            if not value:
                raise space.error(("search", path, "choice", index), message)


def check_methods(space: Space) -> None:
    """Sampler and scheduler exist and take the options given."""
    try:
        catalogue.build(space.sampler.name, space.sampler.options, space.seed)
    except UserError as error:
        raise space.error(("sampler", *_option(error)), str(error)) from None
    most = catalogue.MOST_VALUES.get(space.sampler.name)
    for path, dimension in space.dimensions.items():
        if most and dimension.kind == "int" and (dimension.count or 0) > most:
            raise space.error(("search", path),
                              f"{dimension.count:,} whole numbers, of which sampler {space.sampler.name} "
                              f"lists every one; legal: at most {most:,} (a larger step, or float, log), "
                              "or another sampler")
    known = problem(space)  # what is wrong with a trial's settings is said in its own place
    try:
        schedulers.build(space.scheduler.name, known, space.scheduler.options)
    except UserError as error:
        raise space.error(("scheduler", *_option(error)), str(error)) from None


def check_track(space: Space) -> None:
    """Trackers are known by name; whether they are installed is seen where the space is run."""
    for name in space.track:
        try:
            tracker(name)
        except UserError as error:
            raise space.error(("track",), str(error)) from None


def check_shared(space: Space) -> None:
    """No more corpora, teachers and bases than `budget.bases` have to be made for the trials of the space."""
    most = space.budget.bases
    for kind, count in reversed(demand(space).items()):
        if count > most:
            paths, whole = deciding(space.dimensions, kind), combinations(space, kind)
            widest = max(paths, key=lambda path: space.dimensions[path].count or 0)
            of = f" of {whole:,}" if whole > count else ""
            many = f"up to {count:,}{of} {PLURAL[kind]} would be made for the values of {', '.join(paths)}"
            message = (f"{many}, and budget.bases is {most}; search fewer values (choice, "
                       f"or int with a step), or allow as many: --set budget.bases={count}")
            raise space.error(("search", widest), message)


def _option(error: UserError) -> tuple[str, ...]:
    """The option that the error is about, where it is about one."""
    return (error.option,) if isinstance(error, OptionError) else ()


def problem(space: Space) -> Problem:
    """What a scheduler judges the trials of the space by: proxies and ideals are those that
    the metrics name."""
    metrics = [item.metric for item in space.objectives if item.metric in METRICS.entries]
    proxies = {metric: proxy for metric in metrics if (proxy := METRICS.get(metric).proxy)}
    ideals = {metric: ideal for metric in metrics if (ideal := METRICS.get(metric).ideal) is not None}
    return Problem(space.objectives, space.constraints, len(space.rungs), proxies, space.seed,
                   space.dimensions, space.box, space.rungs, ideals=ideals)


def check_plugins(space: Space) -> None:
    """Every plug-in that the space reaches can be built."""
    done: set[tuple[str, str]] = set()
    for use in uses(space):
        mark = (use.registry.kind, json.dumps(use.value, sort_keys=True))
        if mark in done:
            continue
        done.add(mark)
        try:
            use.registry.params(use.ref) if use.registry is BACKBONES else use.registry.build(use.ref)
        except UserError as error:
            raise unusable(space, use, str(error)) from None


def check_rules(space: Space) -> None:
    """What backbone and process ask of other settings holds at every combination that the space reaches."""
    names = {(path, use.ref.name) for path, registry in KINDS[:2] for use in uses_of(space, path, registry)}
    for path, registry in KINDS[:2]:
        asked = {rule.setting for kind, name in names if kind == path
                 for rule in registry.get(name).Params.rules}
        inside = [name for name in space.dimensions
                  if name in asked or name == path or name.startswith(f"{path}.")]
        for point in points.reachable(space.dimensions, inside):
            tree = trial_tree(space.form, point)
            params = registry.params(PluginRef.model_validate(tree_at(tree, path)))
            for rule in params.rules:
                problem = rule.problem(tree_at(tree, rule.setting), params)
                if problem:
                    raise reached(inside, point, problem, ("trial", *rule.setting.split(".")),
                                  space.complaints)


def check_conditions(space: Space) -> None:
    """Models are told what can be told, and no control task is led by what its model was never told."""
    from trainable.control import conditions

    inside = [path for path in space.dimensions
              if path in (_GUIDANCE, _TOKENIZER) or f"{path}.".startswith(("model.", "diffusion."))]
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        params = BACKBONES.params(PluginRef.model_validate(tree["model"]))
        guides = PROCESSES.get(tree_at(tree, "diffusion.name")).guides
        refs, by = list(getattr(params, "conditions", ())), tree_at(tree, _GUIDANCE)
        try:
            for ref in refs:
                TASKS.build(ref)
            conditions.check_conditions(refs)
            for ref in refs:
                conditions.check_positions(ref.name, "classifier_free", tree_at(tree, _TOKENIZER))
        except UserError as error:
            raise space.error(_key(space, _CONDITIONS), str(error)) from None
        for index, value in enumerate(tree_at(tree, "evaluation.control_tasks")):
            ref = PluginRef.model_validate(value)
            own = ref.params.get("by")
            try:
                if (own or by) not in guides:
                    raise UserError(f"diffusion {tree_at(tree, 'diffusion.name')} offers no {own or by} "
                                    f"guidance; legal: {', '.join(guides) or 'none, so no control tasks'}")
                conditions.check_positions(ref.name, own or by, tree_at(tree, _TOKENIZER))
                if (own or by) in ("classifier_free", "both"):
                    conditions.check_conditioned(TASKS.build(ref), own or by, refs)
            except UserError as error:
                key = ("trial", "evaluation", "control_tasks", index, "by") if own else _key(space, _GUIDANCE)
                raise space.error(key, str(error)) from None


def _key(space: Space, path: str) -> tuple[str, ...]:
    """Where a setting stands in the space file."""
    return ("search", path) if path in space.dimensions else ("trial", *path.split("."))


def _check_tokenizers(space: Space) -> None:
    from trainable.corpora.tokens import Tokens

    inside = [path for path in space.dimensions if path in (_TOKENIZER, "corpus.mask")]
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        try:
            if tree_at(tree, _TOKENIZER) is not None:
                Tokens.open(tree_at(tree, _TOKENIZER), tree_at(tree, "corpus.mask"))
        except UserError as error:
            raise space.error(_key(space, _TOKENIZER), _without(error, _TOKENIZER)) from None


def _without(error: UserError, key: str) -> str:
    """A message without the key that stands before it anyway."""
    return str(error).removeprefix(f"{key}: ")


def _check_bases(space: Space) -> None:
    """Every base that is given is there, and a checkpoint has the shape of the model that begins as it."""
    from spaces.config import TrialConfig
    from trainable.training.transfer import check_base

    inside = [path for path in space.dimensions
              if path.startswith(("base.path", "base.start", "model.", "diffusion."))
              or path in (_TOKENIZER, "corpus.mask")]
    given = [path for path in inside if path.startswith("base.")]
    if not any(tree_at(trial_tree(space.form, point), f"base.{name}") is not None
               for name in ("path", "start") for point in points.reachable(space.dimensions, given)):
        return
    for point in points.reachable(space.dimensions, inside):
        tree = trial_tree(space.form, point)
        for name in ("path", "start"):
            try:
                check_base(TrialConfig.model_validate({group: tree[group] for group in _BASE_GROUPS}), name)
            except UserError as error:
                raise space.error(_key(space, f"base.{name}"), _without(error, f"base.{name}")) from None


def check_sources(space: Space) -> None:
    """Raises `UserError` when a corpus or a control task of the space reads a file that is not there,
    or a task names an oracle that is not installed. Asked on the machine that runs it."""
    positions = tree_at(trial_tree(space.form, {}), "corpus.max_length")
    _check_tokenizers(space)
    _check_bases(space)
    for use in uses(space):
        key = ("trial", *use.path.split("."), *(() if use.index is None else (use.index,)))
        try:
            if use.registry is CORPORA:
                use.registry.build(use.ref).sources()
            elif use.registry is TASKS:
                use.registry.build(use.ref).check(positions)
        except UserError as error:
            raise space.error(key, str(error)) from None

