"use strict";
// What is text: figures of the run, tables, the record of the chosen trial, generated sentences, how to run it again.
const UNITS = {_ms: "ms", _bytes: "B", _seconds: "s"};

function figures(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value !== "number") return typeof value === "object" ? compact(value) : String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en-US");
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return size >= 100 ? Math.round(value).toLocaleString("en-US") : String(+value.toPrecision(3));
}
// The divisor and the unit in which a value reads well; a repeat of a metric has its unit, `seconds_METRIC` is how long it took to measure.
function scaled(metric, value) {
  if (metric.startsWith("seconds_")) return [1, "s"];
  const name = metric.replace(/_(again|seeds)(_sd)?$/, "");
  if (name.endsWith("_bytes")) return [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]].find(([size]) => Math.abs(value) >= size) || [1, "B"];
  return [1, Object.entries(UNITS).find(([end]) => name.endsWith(end))?.[1] || ""];
}
function inUnits(metric, value) {
  if (typeof value !== "number") return figures(value);
  const [size, unit] = scaled(metric, value);
  return figures(value / size) + (unit ? ` ${unit}` : "");
}
function ranged(metric, value, half) {
  if (!half || typeof value !== "number") return inUnits(metric, value);
  const [size, unit] = scaled(metric, value);
  return `${figures(value / size)} ± ${figures(+(half / size).toPrecision(2))}${unit ? ` ${unit}` : ""}`;
}
const interval = (metric, value, error) => ranged(metric, value, typeof error === "number" ? 1.96 * error : 0);
function compact(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.map(compact).join("+");
  if (typeof value === "object") {
    const rest = Object.entries(value).filter(([key]) => key !== "name").map(([key, item]) => `${key}=${compact(item)}`).join(", ");
    return "name" in value ? (rest ? `${value.name}(${rest})` : String(value.name)) : `{${rest}}`;
  }
  return typeof value === "number" ? figures(value) : String(value);
}
function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  return whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
}
const short = path => { const parts = path.split("."); const last = parts.at(-1); return state.data.dimensions.filter(item => item.path.split(".").at(-1) === last).length > 1 || last === "name" ? parts.slice(-2).join(".") : last; };
const percent = share => typeof share === "number" ? `${figures(100 * share)} %` : "–";
const place = trial => state.data.trials.trial.indexOf(trial);
const cell = (name, index) => state.data.trials[name]?.[index];
const settings = index => state.data.dimensions.map(item => [short(item.path), cell(`config.${item.path}`, index)]).filter(([, value]) => value !== null && value !== undefined);
const arrow = item => item.direction === "minimize" ? "↓" : "↑";

function table(node, head, rows) {
  fill(node, el("thead", {}, el("tr", {}, head.map(([name, kind]) => el("th", {class: kind || ""}, name)))), el("tbody", {}, rows));
}

function write() {
  const {run, counts, cost, front, progress} = state.data;
  document.title = `${run.name}: ${counts.trials} trials, ${front.length} on the front`;
  $("title").textContent = run.folder;
  $("lead").textContent = run.description;
  const hours = cost.lines.reduce((sum, line) => sum + line.device_hours, 0);
  const volume = progress.hypervolume.at(-1);
  const facts = [[run.state, `started ${(run.started || "").slice(0, 16).replace("T", " ")}`], [figures(counts.trials), `trials: ${counts.complete} complete, ${counts.stopped} stopped, ${counts.failed} failed`],
    [figures(front.length), "members of the front"], [volume === undefined ? "–" : figures(volume), "hypervolume"], [duration(run.seconds), "of work"], [figures(hours), `${cost.unit}-hours`]];
  fill($("facts"), facts.map(([value, what]) => el("div", {class: "fact"}, el("b", {}, value), el("span", {}, what))));
  if (counts.shown < counts.trials) {
    $("bounded").hidden = false;
    $("bounded").textContent = `${figures(counts.shown)} of ${figures(counts.trials)} trials are drawn: the front, the reference arms and an even selection of the rest. Counts, front, hypervolume and cost are of all trials; trials.parquet holds every one.`;
  }
  if (state.data.warnings.length) {
    $("warnings").hidden = false;
    $("warnings").textContent = state.data.warnings.join(" · ");
  }
  if (state.data.corpora.length) {
    $("corpora").hidden = false;
    $("corpora").textContent = `Text: ${state.data.corpora.join(" · ")}`;
  }
  if (state.data.sensitivity) writeSensitivity();
  fill($("nav"), [...document.querySelectorAll("main [id]")].filter(node => node.matches("figure,section") && !node.hidden && node.querySelector("h2")).map(node =>
    el("a", {href: `#${node.id}`}, node.querySelector("h2").dataset.short || node.querySelector("h2").textContent)));
  writeMembers(); writeStops(); writeCost(); writeReproduce(); writeSamples();
  $("importancenote").textContent = Object.keys(state.data.importance).length ? "Share of each searched setting in telling the best fifth of complete trials from all of them (PED-ANOVA, Optuna). Settings act together: a small share is no proof that a setting does not matter." : "Needs at least 10 complete trials.";
  $("volumenote").textContent = state.data.box ? `Share of the run's box that the front dominates (${Object.entries(state.data.box).map(([name, [best, worst]]) => `${name} ${inUnits(name, best)} to ${inUnits(name, worst)}`).join(", ")})${progress.exact ? "" : "; Monte Carlo estimate, 20,000 points"}. Values compare in one and the same box only.` : "The run has no box yet: too few complete trials.";
  $("foot").textContent = `Made ${run.made.slice(0, 16).replace("T", " ")} from ${run.path}. Self-contained: no network is used.`;
  if (front.length || state.data.trials.trial.length) choose(state.data.knee ?? state.data.trials.trial[0], false);
}

const member = trial => state.data.members[state.data.front.indexOf(trial)];
const PLACES = {open: " ?", lost: " ✗"};
const VERDICTS = {held: "held its place when measured again", open: "its place is open", lost: "lost its place when measured again"};
const anew = (trial, metric) => member(trial)?.fresh[metric];
const fresh = (trial, metric) => ranged(metric, ...anew(trial, metric));
const goBy = (trial, metric) => anew(trial, metric)?.[0] ?? cell(metric, place(trial));

function writeMembers() {
  const {front, objectives, knee, dimensions, members} = state.data;
  const rows = front.map(trial => [trial, place(trial)]).filter(([, index]) => index >= 0);
  const kept = rows.filter(([trial]) => member(trial).place !== "lost"), measured = kept.filter(([trial]) => member(trial).of !== "own");
  const best = objectives.map(item => Math[item.direction === "minimize" ? "min" : "max"](...(measured.length ? measured : kept).map(([trial]) => goBy(trial, item.metric))));
  const differs = dimensions.filter(item => rows.length < 2 || new Set(rows.map(([, index]) => JSON.stringify(cell(`config.${item.path}`, index)))).size > 1);
  table($("membertable"), [["trial", "n"], ...objectives.map(item => [`${item.metric} ${arrow(item)}`, "n"]), ...differs.map(item => [short(item.path)])], rows.map(([trial, index]) =>
    el("tr", {tabindex: 0, "data-trial": trial, onclick: () => choose(trial, true), onkeydown: event => { if (event.key === "Enter") choose(trial, true); }},
      el("td", {class: "n"}, trial, trial === knee ? " ◆" : "", PLACES[member(trial).place] || ""),
      objectives.map((item, column) => {
        const lit = member(trial).place !== "lost" && goBy(trial, item.metric) === best[column] ? "best" : "";
        const own = interval(item.metric, cell(item.metric, index), cell(`${item.metric}_se`, index));
        return anew(trial, item.metric) ? el("td", {class: "n"}, own, el("br"), el("span", {class: lit}, `${member(trial).of} ${fresh(trial, item.metric)}`)) : el("td", {class: `n ${lit}`}, own);
      }),
      differs.map(item => el("td", {}, compact(cell(`config.${item.path}`, index)))))));
  const real = rows.length ? objectives.map(item => [item.metric, cell(`${item.metric}_heldout`, rows[0][1])]).filter(([, value]) => typeof value === "number") : [];
  const unknown = rows.map(([trial, index]) => [trial, cell("unk_share", index), cell("unk_share_heldout", index)]).filter(([, share]) => typeof share === "number").sort((one, other) => other[1] - one[1])[0];
  $("membernote").textContent = "◆ knee: the member that gives up least, all objectives scaled to the front. Bold: the best value. ±: 95 % interval from the measurement's own standard error."
    + (members.some(item => item.of !== "own") ? " again: measured anew from the exported files, seeds: trained anew with other seeds. These are the figures to go by; knee and bold do. ?: another member's new figures lie within this one's intervals. ✗: beaten by another member, or beyond a constraint, when measured anew." : members.length ? " No member was measured again: each was chosen by one measurement, so the figures are a little too good." : "")
    + (unknown ? ` Unknown words (UNK), which help no score: at most ${percent(unknown[1])} of the words of a member's generated text (trial ${unknown[0]}); in real held-out text ${percent(unknown[2])}.` : "")
    + (real.length ? ` Real held-out text, for scale: ${real.map(([name, value]) => `${name} ${inUnits(name, value)}`).join(", ")}.` : "");
}

function writeStops() {
  const most = Math.max(1, ...state.data.stops.map(item => item.trials));
  table($("stoptable"), [["ended"], ["why"], ["trials", "n"], [""]], state.data.stops.map(item =>
    el("tr", {}, el("td", {}, item.state), el("td", {class: "wrap"}, item.reason || (item.state === "complete" ? "reached the last rung" : "–")), el("td", {class: "n"}, figures(item.trials)),
      el("td", {}, Object.assign(el("span", {class: "bar"}), {style: `width:${(100 * item.trials / most).toFixed(1)}px`})))));
}

function writeSensitivity() {
  const {bits, rows} = state.data.sensitivity;
  $("sensitivity").hidden = false;
  const number = value => value === null ? "–" : figures(value);
  table($("sensitivitytable"), [["part"], ...bits.map(each => [`${each} bits`, "n"]), ["per bit", "n"]], rows.map(row =>
    el("tr", {}, el("td", {}, row.part), bits.map((_, column) => el("td", {class: "n"}, number(row.kl[column]), el("br"), el("small", {}, row.bytes[column] === null ? "" : inUnits("size_bytes", row.bytes[column])))),
      el("td", {class: "n"}, number(row.kl_per_bit)))));
}

function writeCost() {
  const {cost} = state.data;
  const row = line => el("tr", {}, el("td", {}, line.what), el("td", {class: "n"}, line.count === null ? "" : figures(line.count)), el("td", {class: "n"}, duration(line.seconds)), el("td", {class: "n"}, figures(line.device_hours)));
  const sum = key => cost.lines.reduce((total, line) => total + line[key], 0);
  table($("costtable"), [["what"], ["count", "n"], ["worker time", "n"], [`${cost.unit}-hours`, "n"]], [...cost.lines.map(row),
    row({what: "together", count: null, seconds: sum("seconds"), device_hours: sum("device_hours")})]);
  $("costnote").textContent = `Devices are held from a session's start to its end.${cost.money === null ? "" : ` Money: ${figures(cost.money)}.`}${cost.groups ? ` ${cost.groups} trial(s) could run at once.` : ""}`;
}

function writeReproduce() {
  const {reproduce} = state.data;
  $("commands").textContent = reproduce.commands.join("\n");
  fill($("versions"), [["seed", reproduce.seed], ["versions", reproduce.versions || "–"], ...(reproduce.devices.length ? [["devices", reproduce.devices.join(", ")]] : [])].flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  $("space").textContent = reproduce.space;
}

function sampleNodes(trial) {
  const items = state.data.samples[String(trial)];
  if (!items?.length) return [el("p", {class: "note"}, "No generated text was kept for this trial.")];
  const groups = new Map();
  items.forEach(item => groups.set(item.task, [...(groups.get(item.task) || []), item]));
  return [...groups].flatMap(([task, own]) => [el("h3", {}, task ? `Control: ${task}` : "Without control"), ...own.map(item =>
    el("div", {class: `sample ${item.success === null || item.success === undefined ? "" : item.success ? "yes" : "no"}`}, item.target ? el("small", {}, `${item.target}${item.success === null || item.success === undefined ? "" : item.success ? "  ✓ reached" : "  ✗ missed"}`) : "", item.text || "(empty)"))]);
}

function writeSamples() {
  const names = Object.keys(state.data.samples);
  if (!names.length) { fill($("samplebody"), el("p", {class: "note"}, "This run kept no generated text.")); $("sampletrial").parentElement.hidden = true; return; }
  const lit = new Set(state.data.front.map(String));
  const first = String(state.data.knee ?? names[0]);
  const list = [...names]; list.label = name => lit.has(name) ? `${name} (front)` : name;
  options($("sampletrial"), list, names.includes(first) ? first : names[0]);
  const show = () => fill($("samplebody"), sampleNodes($("sampletrial").value));
  $("sampletrial").addEventListener("change", show);
  show();
}

function choose(trial, byHand) {
  const index = place(trial);
  if (index < 0) return;
  state.chosen = trial;
  const {data} = state, chip = (text, lit) => el("span", {class: lit ? "chip lit" : "chip"}, text);
  const own = new Set(["trial", "state", "tag", "feasible", ...data.objectives.flatMap(item => [item.metric, `${item.metric}_se`])]);
  const lines = (pairs) => el("table", {}, el("tbody", {}, pairs.map(([name, value]) => el("tr", {}, el("td", {}, name), el("td", {class: "n"}, value)))));
  const rest = Object.keys(data.trials).filter(name => !own.has(name) && !name.startsWith("config.") && cell(name, index) !== null && cell(name, index) !== undefined);
  fill($("detail"), el("h2", {}, `Trial ${trial}`), el("p", {}, chip(cell("state", index)), data.front.includes(trial) ? chip("front", true) : "", trial === data.knee ? chip("knee", true) : "", cell("tag", index) ? chip(cell("tag", index)) : "", cell("feasible", index) ? "" : chip("breaks a constraint")),
    lines(data.objectives.flatMap(item => [[`${item.metric} ${arrow(item)}`, interval(item.metric, cell(item.metric, index), cell(`${item.metric}_se`, index))], ...(anew(trial, item.metric) ? [[member(trial).of, fresh(trial, item.metric)]] : [])])),
    member(trial)?.place ? el("p", {class: "note"}, VERDICTS[member(trial).place]) : "",
    el("h3", {}, "Settings"), lines(settings(index).map(([name, value]) => [name, compact(value)])),
    cell("reason", index) ? el("p", {class: "note"}, cell("reason", index)) : "",
    ...sampleNodes(trial),
    el("details", {}, el("summary", {}, `Full record (${rest.length} values)`), lines(rest.map(name => [name, inUnits(name, cell(name, index))]))));
  document.querySelectorAll("tr[data-trial]").forEach(row => row.classList.toggle("on", row.dataset.trial === String(trial)));
  if (byHand) { redraw("front"); if (innerWidth < 900) $("detail").scrollIntoView({block: "nearest"}); }
}
