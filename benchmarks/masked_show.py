"""The tables of `benchmarks.masked`, as Markdown."""

from __future__ import annotations

from itertools import product

from benchmarks.masked_texts import named, table


def show(held: dict) -> str:
    """Every table that the figures give."""
    parts = []
    for text, processes in held.get("texts", {}).items():
        parts += [f"{text}: texts at equal CPU seconds", equal_seconds(held, text)]
        parts += [f"{text}, {process}, seed {seed}\n\n{table(found['rows'])}"
                  for process, seeds in processes.items() for seed, found in seeds.items()]
    for text, processes in held.get("samplers", {}).items():
        parts += [f"{text}, {process}, seed {seed}\n\n{table(list(found['rows'].values()))}"
                  for process, seeds in processes.items() for seed, found in seeds.items()]
    for text, processes in held.get("confirm", {}).items():
        parts += [f"{text}, {process}, seed {seed}: confirmed\n\n{table(group)}"
                  for process, seeds in processes.items() for seed, found in seeds.items()
                  for group in found["groups"]]
    parts += [f"{text}: control\n\n{control(processes)}"
              for text, processes in held.get("control", {}).items()]
    return "\n\n".join(parts)


def reference(found: dict) -> int:
    """Which row of a Gaussian base is the one its space starts with: temperature 0.5."""
    return next(i for i, row in enumerate(found["rows"]) if row["temperature"] == 0.5)


def choice(draws: tuple[list[dict], list[dict]], least: tuple[float, float]) -> int | None:
    """The row of the lowest perplexity in the first of two sets of texts, of those whose distinct-2 is at
    least `least` in either; None where none is."""
    fitting = [i for i, both in enumerate(zip(*draws, strict=True))
               if all(row["distinct2"] >= bound for row, bound in zip(both, least, strict=True))]
    return min(fitting, key=lambda i: draws[0][i]["perplexity"], default=None)


def pairs(held: dict, text: str) -> list[dict]:
    """For each seed, and each pair of kinds of bases: the Gaussian's row, and the masked row chosen for the
    lowest perplexity at no less than 0.97 of its distinct-2 in both sets of texts. The perplexity that
    chooses is of one set; all figures are of the other one."""
    processes = held["texts"][text]
    found = []
    for name, other in product(processes, processes):
        if name.startswith("gaussian") or not other.startswith("gaussian"):
            continue
        for seed in processes[name].keys() & processes[other].keys():
            masked, gaussian = processes[name][seed], processes[other][seed]
            at = reference(gaussian)
            chosen = choice((masked["rows"], masked["again"]),
                            (0.97 * gaussian["rows"][at]["distinct2"],
                             0.97 * gaussian["again"][at]["distinct2"]))
            if chosen is not None:
                found.append({"name": f"{other}, {name}", "seed": seed, "gaussian": gaussian["again"][at],
                              "masked": masked["again"][chosen], "bounds": (gaussian["nll_bound"],
                                                                            masked["nll_bound"]),
                              "steps": (gaussian["training"]["steps"], masked["training"]["steps"])})
    return sorted(found, key=lambda pair: (pair["name"], pair["seed"]))


def equal_seconds(held: dict, text: str) -> str:
    """Gaussian, masked in each cell; a row a pair of bases."""
    lines = ["| bases | seed | steps trained | passes (NFE) | perplexity | ratio | distinct-2 | ratio | "
             "length distance | ends early | bound, nats a word | masked sampler |", "|---" * 12 + "|"]
    for pair in pairs(held, text):
        a, b = pair["gaussian"], pair["masked"]
        lines.append(
            f"| {pair['name']} | {pair['seed']} | {pair['steps'][0]:,}, {pair['steps'][1]:,} | "
            f"{a['nfe']:.0f}, {b['nfe']:.1f} | "
            f"{a['perplexity']:.2f}, {b['perplexity']:.2f} | {b['perplexity'] / a['perplexity']:.2f} | "
            f"{a['distinct2']:.3f}, {b['distinct2']:.3f} | {b['distinct2'] / a['distinct2']:.2f} | "
            f"{a['length_distance']:.2f}, {b['length_distance']:.2f} | {100 * a['early']:.1f}, "
            f"{100 * b['early']:.1f} % | {pair['bounds'][0]:.3f}, {pair['bounds'][1]:.3f} | "
            f"{named(b['sampler'])}; temperature {b['temperature']:g} |")
    return "\n".join(lines)


def control(processes: dict) -> str:
    """A row a task, a column a process and seed: success %, lm-score, seconds."""
    columns = [(process, seed) for process in processes for seed in processes[process]]
    tasks = dict.fromkeys(task for process, seed in columns for task in processes[process][seed]["tasks"])
    lines = ["| task | " + " | ".join(f"{process}, seed {seed}" for process, seed in columns) + " |",
             "|---" * (len(columns) + 1) + "|"]
    for task in tasks:
        cells = []
        for process, seed in columns:
            row = processes[process][seed]["tasks"].get(task)
            cells.append("" if row is None else
                         f"{100 * row['success']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}] / "
                         f"{row['lm_score']:.2f} / {row['cpu_seconds']:.1f} s")
        lines.append(f"| `{task}` | " + " | ".join(cells) + " |")
    for process, seed in columns:
        trial = processes[process][seed].get("one_trial")
        if trial:
            lines.append(f"\none trial, {process}, seed {seed}: {trial['first_seconds']:.1f} s, later "
                         f"{trial['later_seconds']:.1f} s")
    return "\n".join(lines)
