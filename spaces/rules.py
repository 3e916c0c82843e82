"""What the keys of a space must be to each other: checked when a space is loaded, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from spaces import points
from spaces.box import OF_BASE, number
from spaces.complaints import Complaints, meaning
from spaces.config import TeacherConfig, TrialConfig
from spaces.dimensions import Dimension
from spaces.errors import UserError
from spaces.form import SpaceForm
from spaces.paths import DECIDING, PathError, is_group, is_plugin, put, resolve, settings_in
from spaces.values import did_you_mean, show

BASE_PREFIXES = ("corpus.", "model.", "diffusion.", "base.", "teacher.")


@dataclass(frozen=True)
class _Pair:
    """A rule between two settings of different groups."""

    left: str
    right: str
    holds: Callable[[Any, Any], bool]
    words: str


_PAIRS = (
    _Pair("teacher.hidden", "teacher.heads", lambda hidden, heads: hidden % heads == 0,
          "should be a multiple of"),
)


def check(form: SpaceForm, complaints: Complaints) -> None:
    """All rules, in an order in which each may rely on those before. Raises `UserError` for the
    first broken one."""
    if not _legal_at_once(form.trial):
        check_fixed(form.trial, complaints)
        check_teacher(form.trial, complaints)
    for path, dimension in form.search.items():
        check_dimension(path, dimension, form, complaints)
    check_conditions(form.search, complaints)
    check_overlaps(form, complaints)
    check_groups(form, complaints)
    check_pairs(form, complaints)
    check_box(form, complaints)
    check_start(form, complaints)
    check_run(form, complaints)


def _legal_at_once(tree: dict[str, Any]) -> bool:
    """Whether all of `trial:` is read as it stands; what is wrong with it, `check_fixed` finds key by key,
    which takes many times as long."""
    try:
        TrialConfig.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError:
        return False
    return True


def check_fixed(tree: dict[str, Any], complaints: Complaints, at: tuple[str, ...] = ()) -> None:
    """Every key of `trial:` exists and holds a legal value."""
    for name, value in tree.items():
        path = (*at, name)
        if "." in name:
            nested = ": {".join(name.split(".")) + ": ..." + "}" * name.count(".")
            raise complaints.error(("trial", *path),
                                   f"keys under trial are nested, not dotted; write {nested}")
        try:
            setting = resolve(".".join(path))
        except PathError as error:
            if not _group_exists(path):
                raise complaints.error(("trial", *path), str(error)) from None
            if not isinstance(value, dict):
                message = f"is a group of settings, so it should be a mapping, not {show(value)}"
                raise complaints.error(("trial", *path), message) from None
            check_fixed(value, complaints, path)
            continue
        problem = setting.problem(value)
        if problem:
            raise complaints.error(("trial", *path), problem)


def check_teacher(tree: dict[str, Any], complaints: Complaints) -> None:
    """How a teacher is trained, whose choices are fewer than a base's: no search mends that."""
    teacher = tree.get("teacher")
    optim = teacher.get("optim") if isinstance(teacher, dict) else None
    if optim is None:
        return
    try:
        TeacherConfig.model_validate({"optim": optim})
    except ValidationError as error:
        raise complaints.error(("trial", "teacher", "optim"), meaning(error.errors()[0])) from None


def _group_exists(path: tuple[str, ...]) -> bool:
    group: Any = TrialConfig
    for part in path:
        field = group.model_fields.get(part)
        if field is None or not is_group(field.annotation):
            return False
        group = field.annotation
    return True


def check_dimension(path: str, dimension: Dimension, form: SpaceForm, complaints: Complaints) -> None:
    """The path exists and may be searched, and every value of the dimension is legal there."""
    key = ("search", path)
    try:
        setting = resolve(path)
    except PathError as error:
        raise complaints.error(key, str(error)) from None
    why = _unsearchable(path, form)
    if why:
        raise complaints.error(key, why)
    if path.startswith(BASE_PREFIXES) and not dimension.finite:
        message = ("changes the base model, which is trained once per value, so it needs few; "
                   "use choice or int")
        raise complaints.error((*key, dimension.kind), message)
    if (not dimension.finite
            and setting.problem(dimension.low + (dimension.high - dimension.low) / 2.718281828)):
        if not any(setting.problem(float(value)) for value in dimension.values()) or not setting.problem(1):
            raise complaints.error((*key, dimension.kind),
                                   "takes whole numbers only; use int: [lowest, highest]")
    for index, value in enumerate(_samples(dimension)):
        problem = setting.problem(value)
        if problem:
            place = ("choice", index) if dimension.kind == "choice" else (dimension.kind,)
            raise complaints.error((*key, *place), problem)


def _samples(dimension: Dimension) -> tuple[Any, ...]:
    """Every choice, the ends of a range."""
    return dimension.choice if dimension.choice is not None else (dimension.low, dimension.high)


def _unsearchable(path: str, form: SpaceForm) -> str | None:
    if path == "adapt.optim.steps":
        return "is set by rungs, so it is not searched; give rungs: [..., full budget]"
    if path.startswith("evaluation.") and not path.startswith("evaluation.guidance."):
        return f"changes how trials are measured, so their scores could not be compared; fix it: trial.{path}"
    measured = set(form.objectives) | {text.split()[0] for text in form.constraints}
    if path.startswith("teacher.") and "perplexity" in measured:
        return f"perplexities under different teachers cannot be compared; fix it: trial.{path}"
    return None


def check_conditions(search: dict[str, Dimension], complaints: Complaints) -> None:
    """Each `when` names another searched dimension and values of it, without going in circles."""
    for path, dimension in search.items():
        for parent, values in dimension.when.items():
            key = ("search", path, "when", parent)
            if parent not in search:
                raise complaints.error(key, f"is not searched{did_you_mean(parent, search)}; legal: "
                                            f"{', '.join(search)}")
            if not search[parent].finite:
                raise complaints.error(key,
                                       "has infinitely many values; a condition needs a choice or an int")
            for value in values:
                if not search[parent].contains(value):
                    raise complaints.error(key, f"never is {show(value)}; legal: {search[parent].describe()}")
    try:
        points.order(search)
    except points.CycleError as error:
        raise complaints.error(("search", error.paths[0], "when"),
                               f"conditions go in a circle: {error}") from None
    for path, dimension in search.items():
        if dimension.when and not points.can_hold(search, path):
            raise complaints.error(("search", path, "when"),
                                   "can never hold, so the dimension would never be searched")


def check_overlaps(form: SpaceForm, complaints: Complaints) -> None:
    """Nothing is searched twice, or both fixed and searched."""
    for path in form.search:
        for other in form.search:
            if path.startswith(f"{other}."):
                message = f"is a part of {other}, which is searched as a whole; search only one of the two"
                raise complaints.error(("search", path), message)
    for path, _ in settings_in(form.trial):
        for searched in form.search:
            if path == searched or path.startswith(f"{searched}.") or searched.startswith(f"{path}."):
                message = f"is fixed here and searched at search.{searched}; keep one"
                message += f" (--set search.{searched}=null stops searching it)"
                raise complaints.error(("trial", *path.split(".")), message)
    fixed: Mapping[str, Any] = form.trial
    fixed_steps = (fixed.get("adapt") or {}).get("optim", {}).get("steps")
    if form.rungs and fixed_steps not in (None, form.rungs[-1]):
        message = f"is {fixed_steps}, but the last of rungs is {form.rungs[-1]}; leave it out, rungs set it"
        raise complaints.error(("trial", "adapt", "optim", "steps"), message)


def trial_tree(form: SpaceForm, point: points.Point) -> dict[str, Any]:
    """The nested settings of one trial: defaults, fixed ones, the values of `point`, the steps
    of the last rung.

    Fixing `base.optim.steps` leaves the other settings of `base.optim` at the defaults of the base, which are
    not those of `OptimConfig`; so the defaults are laid down first.
    """
    tree = _over(_defaults(), form.trial, TrialConfig)
    for path, value in point.items():
        put(tree, path, value)
    if form.rungs:
        put(tree, "adapt.optim.steps", form.rungs[-1])
    return tree


@cache
def _defaults() -> dict[str, Any]:
    """Shared: `_over` and `put` copy what they change."""
    return TrialConfig().model_dump(mode="json")


def _over(defaults: dict[str, Any], given: dict[str, Any], group: type[BaseModel]) -> dict[str, Any]:
    """Given settings over defaults; groups are merged, everything else (plug-ins, lists)
    replaces the default."""
    merged = dict(defaults)
    for name, value in given.items():
        annotation = group.model_fields[name].annotation
        if is_group(annotation):
            merged[name] = _over(defaults[name], value, annotation)
        elif is_plugin(annotation):
            merged[name] = annotation.model_validate(value).model_dump(mode="json")
        else:
            merged[name] = value
    return merged


def _groups(group: type[BaseModel] = TrialConfig, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Settings groups that have rules of their own between fields."""
    for name, field in group.model_fields.items():
        if is_group(field.annotation):
            if field.annotation.__pydantic_decorators__.model_validators:
                yield prefix + name, field.annotation
            yield from _groups(field.annotation, f"{prefix}{name}.")


def check_groups(form: SpaceForm, complaints: Complaints) -> None:
    """Every combination of searched values within a group of settings keeps to the group's own rules."""
    for at, group in _groups():
        inside = [path for path in form.search if resolve(path).group_path == at]
        for point in points.reachable(form.search, inside):
            try:
                group.model_validate(tree_at(trial_tree(form, point), at))
            except ValidationError as error:
                message, fixed_key = meaning(error.errors()[0]), ("trial", *at.split("."))
                raise reached(inside, point, message, fixed_key, complaints) from None


def check_pairs(form: SpaceForm, complaints: Complaints) -> None:
    """Rules between settings of different groups hold at every combination that the space reaches."""
    for pair in _PAIRS:
        inside = [path for path in form.search if path in (pair.left, pair.right)]
        for point in points.reachable(form.search, inside):
            tree = trial_tree(form, point)
            left, right = tree_at(tree, pair.left), tree_at(tree, pair.right)
            if not pair.holds(left, right):
                message = f"{pair.left}={left} {pair.words} {pair.right}={right}"
                raise reached(inside, point, message, ("trial", *pair.left.split(".")), complaints)


def tree_at(tree: Any, path: str) -> Any:
    """The value at a dotted path of nested mappings."""
    for part in path.split("."):
        tree = tree[part]
    return tree


def reached(
    inside: list[str], point: points.Point, message: str, fixed_key: tuple[str, ...], complaints: Complaints
) -> UserError:
    """The error for a bad combination: blames the searched key, or the fixed one where
    nothing is searched."""
    if not inside:
        return complaints.error(fixed_key, message)
    values = ", ".join(f"{path}={show(value)}" for path, value in point.items())
    return complaints.error(("search", inside[-1]), f"the space reaches {values}: {message}")


def check_box(form: SpaceForm, complaints: Complaints) -> None:
    """Corners are given for objectives only, the better one first."""
    for metric, (best, worst) in form.box.items():
        if metric not in form.objectives:
            legal = ", ".join(form.objectives)
            hint = did_you_mean(metric, form.objectives)
            raise complaints.error(("box", metric), f"is not an objective{hint}; legal: {legal}")
        if isinstance(best, str) or isinstance(worst, str):
            check_shares(form, metric, best, worst, complaints)
        low, high = number(best), number(worst)
        if low == high or (low < high) != (form.objectives[metric] == "minimize"):
            said = ", ".join(one if isinstance(one, str) else f"{one:g}" for one in (best, worst))
            message = f"[{said}] is not [best, worst] of a metric to "
            raise complaints.error(("box", metric), message + form.objectives[metric])


def check_shares(form: SpaceForm, metric: str, best: float | str, worst: float | str,
                 complaints: Complaints) -> None:
    """Corners that are shares of the base's own are of what the base has, and of one base."""
    if not (isinstance(best, str) and isinstance(worst, str)):
        raise complaints.error(("box", metric), "one corner is a share of the base's own, the other is not")
    if metric not in OF_BASE or "latency_ms" not in form.objectives:
        raise complaints.error(("box", metric), "a share of the base's own can be given of latency_ms, and "
                                                "where that is an objective of size_bytes; give numbers")
    groups = tuple(f"{group}." for group in DECIDING["base"])
    for path in form.search:
        if f"{path}.".startswith(groups):
            raise complaints.error(("box", metric), f"bases differ by {path}, which is searched, so none is "
                                                    "the one to take a share of; give numbers")


def check_start(form: SpaceForm, complaints: Complaints) -> None:
    """Points to try first name what is searched, with values that are searched, and nothing
    that they rule out."""
    for index, point in enumerate(form.start):
        for path, value in point.items():
            if path not in form.search:
                legal = ", ".join(form.search)
                hint = did_you_mean(path, form.search)
                raise complaints.error(("start", index, path), f"is not searched{hint}; legal: {legal}")
            dimension = form.search[path]
            if not dimension.contains(value):
                raise complaints.error(("start", index, path),
                                       f"{show(value)} is not searched; legal: {dimension.describe()}")
        for path in point:
            for condition, values in (form.search[path].when or {}).items():
                if condition in point and point[condition] not in values:
                    message = f"is searched only where {condition} is one of {show(values)}"
                    raise complaints.error(("start", index, path), message)


def check_run(form: SpaceForm, complaints: Complaints) -> None:
    """The search can end, and a grid has an end to reach."""
    endless = [path for path, dimension in form.search.items() if not dimension.finite]
    if form.sampler.name == "grid":
        if endless:
            message = f"grid needs finitely many points; use choice or int for {', '.join(endless)}"
            raise complaints.error(("sampler", "name"), message)
    elif not any(getattr(form.budget, limit)
                 for limit in ("trials", "time", "device_hours", "money", "patience")):
        message = ("the search would never end; give budget.trials, budget.time, device_hours, "
                   "money or patience")
        raise complaints.error(("budget",), message)
    if form.budget.money is not None and form.budget.price is None:
        raise complaints.error(("budget", "money"),
                               "needs budget.price, the price of one device for one hour")
