"use strict";
// The figures: each function returns {traces, layout} for Plotly, or null when there is nothing to draw.
// Okabe and Ito's palette: told apart with any color vision; the marks differ in shape as well.
const COLORS = () => theme() === "dark"
  ? {lit: "#ff9d4d", plain: "#56b4e9", faint: "#6f7a89", arm: "#2fd3a0", ink: "#e7ebf1", soft: "#9aa6b6", grid: "#2b3340", card: "#171c24"}
  : {lit: "#d55e00", plain: "#0072b2", faint: "#9aa0a8", arm: "#009e73", ink: "#1c2330", soft: "#5b6575", grid: "#e6e9ee", card: "#ffffff"};
const WIDE = 20, MANY = 1200, PANELS = 12, BARS = 40, CROWD = 200;
// Plotly reads a little HTML in its texts; what a run recorded must stay text.
const plain = text => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const wrap = (text, width = 64) => (text.match(new RegExp(`.{1,${width}}(\\s|$)|.{1,${width}}`, "g")) || [text]).map(plain).join("<br>");
const finite = value => typeof value === "number" && Number.isFinite(value);

function base() {
  const color = COLORS();
  return {paper_bgcolor: color.card, plot_bgcolor: color.card, font: {family: "system-ui, sans-serif", size: 12, color: color.ink}, colorway: [color.plain, color.lit, color.arm, "#cc79a7", "#e69f00"],
    margin: {l: 62, r: 14, t: 34, b: 46}, hovermode: "closest", hoverlabel: {bgcolor: color.card, bordercolor: color.soft, font: {color: color.ink, size: 12}, align: "left"}, legend: {orientation: "h", y: 1.01, yanchor: "bottom", x: 0, font: {size: 11}}, autosize: true, dragmode: "zoom"};
}
function axis(metric, values, extra = {}) {
  const color = COLORS(), item = state.data.objectives.find(item => item.metric === metric);
  const good = values.filter(finite), low = Math.min(...good), high = Math.max(...good);
  const better = item ? (item.direction === "minimize" ? " (less is better)" : " (more is better)") : "";
  const log = low > 0 && high / low > WIDE;
  return {title: {text: plain(metric) + better, font: {size: 12}, standoff: 8}, gridcolor: color.grid, zeroline: false, linecolor: color.grid, type: log ? "log" : "linear", automargin: true,
    ...(log ? {dtick: high / low > 1e3 ? 1 : "D2"} : {}), ...(metric.endsWith("_bytes") ? {tickformat: ".3~s", ticksuffix: "B"} : {}), ...extra};
}
const axisNames = () => [...new Set([...state.data.objectives.map(item => item.metric).filter(costs).sort().reverse(), ...state.data.objectives.map(item => item.metric), ...state.data.constraints.map(item => item.metric), ...["nll_bound", "diversity", "nfe", "train_seconds"].filter(name => name in state.data.trials), "trial"])];
// What a user can afford, size and latency, before anything else; of the rest, that in which most members of the front differ.
const costs = name => /_(bytes|ms)$/.test(name);
const differing = name => new Set(state.data.front.map(trial => cell(name, place(trial))).filter(finite)).size;
const acrossFirst = names => [...names].sort((a, b) => (costs(b) && differing(b) > 1) - (costs(a) && differing(a) > 1) || b.endsWith("_bytes") - a.endsWith("_bytes") || differing(b) - differing(a));

function hover(index) {
  const {objectives} = state.data;
  const head = `<b>trial ${plain(cell("trial", index))}</b> ${plain(cell("state", index))}${cell("tag", index) ? ` · ${plain(cell("tag", index))}` : ""}`;
  return [head, ...objectives.map(item => `${plain(item.metric)} ${plain(interval(item.metric, cell(item.metric, index), cell(`${item.metric}_se`, index)))}`), wrap(settings(index).map(([name, value]) => `${name}=${compact(value)}`).join(" ").slice(0, 400))].join("<br>");
}
function groups() {
  const {trials, front} = state.data, lit = new Set(front), found = {early: [], out: [], others: [], members: [], arm: []};
  trials.trial.forEach((trial, index) => {
    if (lit.has(trial)) found.members.push(index);
    if (trials.tag[index]) found.arm.push(index);
    else if (lit.has(trial)) return;
    else if (trials.state[index] !== "complete") found.early.push(index);
    else found[trials.feasible[index] ? "others" : "out"].push(index);
  });
  return found;
}
function unbeaten(points, across, up) {
  const sign = metric => state.data.objectives.find(item => item.metric === metric)?.direction === "maximize" ? -1 : 1;
  const [a, b] = [sign(across), sign(up)];
  let best = Infinity;
  return [...points].sort((p, q) => a * (p[0] - q[0]) || b * (p[1] - q[1])).filter(point => { const keep = b * point[1] < best; if (keep) best = b * point[1]; return keep; });
}

// Where an axis begins and ends: the marks that matter, and what lies near them. What lies further off (stopped trials, mostly)
// would press the front into a corner; a double click shows it.
function focus(core, rest, bounds) {
  const good = core.flat().filter(finite), every = [...good, ...rest.filter(finite)];
  if (!good.length) return {};
  const log = Math.min(...good) > 0 && Math.max(...good) / Math.min(...good) > WIDE, to = log ? Math.log10 : value => value, from = log ? value => 10 ** value : value => value;
  let [low, high] = [Math.min(...good.map(to)), Math.max(...good.map(to))];
  const extent = high - low || Math.abs(high) * 0.1 || 1, near = [[rest.filter(finite), 0.4], [bounds, 1]].flatMap(([values, reach]) => values.filter(value => !log || value > 0).map(to).filter(value => value > low - reach * extent && value < high + reach * extent));
  [low, high] = [Math.min(low, ...near) - 0.07 * extent, Math.max(high, ...near) + 0.07 * extent];
  if (!log && Math.min(...every) >= 0) low = Math.max(low, -0.02 * (high - low));
  return {ends: [from(low), from(high)], range: [low, high], type: log ? "log" : "linear"};
}

// A member of the front stands where it was measured anew, where it was; any other trial at its own figures.
const at = (name, index) => goBy(cell("trial", index), name);
const half = (name, index) => anew(cell("trial", index), name)?.[1] ?? 1.96 * (cell(`${name}_se`, index) || 0);

function frontFigure() {
  const x = $("ax").value, y = $("ay").value, z = state.three ? $("az").value : null, color = COLORS(), own = groups();
  const names = z ? [x, y, z] : [x, y], many = state.data.trials.trial.length > MANY;
  const trace = (label, indices, marker, extra = {}) => {
    const shown = indices.filter(index => names.every(name => finite(at(name, index))));
    const error = name => ({type: "data", array: shown.map(index => half(name, index)), visible: Boolean(extra.errors) && `${name}_se` in state.data.trials, thickness: 1.1, width: 0, color: color.lit});
    return {type: z ? "scatter3d" : many && label !== "front" ? "scattergl" : "scatter", mode: "markers", name: `${label} (${indices.length})`, x: shown.map(index => at(x, index)), y: shown.map(index => at(y, index)), ...(z ? {z: shown.map(index => at(z, index))} : {error_x: error(x), error_y: error(y)}),
      customdata: shown.map(index => cell("trial", index)), text: shown.map(hover), hovertemplate: "%{text}<extra></extra>", marker: {...marker, ...(z ? {size: Math.max(3, marker.size * 0.55), symbol: {star: "diamond"}[marker.symbol] || marker.symbol} : {})}};
  };
  const traces = [trace("stopped or failed", own.early, {size: 5, color: color.faint, opacity: 0.75, symbol: "circle"}), trace("breaks a constraint", own.out, {size: 8, color: color.faint, symbol: "x"}),
    trace("dominated", own.others, {size: own.others.length > CROWD ? 5 : 8, opacity: own.others.length > CROWD ? 0.6 : 1, symbol: "circle-open", color: color.plain, line: {width: own.others.length > CROWD ? 1 : 1.6, color: color.plain}}), trace("front", own.members, {size: 12, color: color.lit, symbol: "diamond", line: {width: 1, color: color.card}}, {errors: own.members.length <= BARS}),
    trace("reference arm", own.arm, {size: 14, color: color.arm, symbol: z ? "cross" : "star", line: {width: 1, color: color.card}})];
  const knee = state.data.knee === null ? -1 : place(state.data.knee), chosen = place(state.chosen);
  if (knee >= 0) traces.push(trace("knee", [knee], {size: 20, symbol: "diamond-open", color: color.ink, line: {width: 1.6, color: color.ink}}));
  if (chosen >= 0 && !z) traces.push({...trace("chosen", [chosen], {size: 26, symbol: "circle-open", color: color.soft, line: {width: 1.4, color: color.soft}}), showlegend: false, hoverinfo: "skip", hovertemplate: null});
  const all = name => [...own.members, ...own.others, ...own.out, ...own.early, ...own.arm].map(index => at(name, index));
  if (z) {
    const scene = metric => ({...axis(metric, all(metric)), title: {text: plain(metric)}, backgroundcolor: color.card, automargin: undefined});
    for (const name of ["xaxis", "yaxis", "zaxis"]) delete scene[name];
    $("frontnote").textContent = "Drag to turn, scroll to zoom, click a trial for its record.";
    return {traces: traces.filter(item => item.x.length), layout: {scene: {xaxis: scene(x), yaxis: scene(y), zaxis: scene(z), camera: {eye: {x: 1.5, y: 1.5, z: 0.8}}}, margin: {l: 0, r: 0, t: 0, b: 0}}};
  }
  const objectives = new Set(state.data.objectives.map(item => item.metric));
  if (objectives.has(x) && objectives.has(y) && x !== y) {
    const best = unbeaten(own.members.map(index => [at(x, index), at(y, index)]).filter(point => point.every(finite)), x, y);
    traces.splice(3, 0, {type: "scatter", mode: "lines", x: best.map(point => point[0]), y: best.map(point => point[1]), line: {color: color.lit, width: 1.8, shape: "hv"}, hoverinfo: "skip", showlegend: false, name: "attained"});
  }
  const lines = state.data.constraints.flatMap(item => [[x, "x"], [y, "y"]].filter(([name]) => name === item.metric).map(([, which]) => ({type: "line", layer: "below", line: {color: color.ink, width: 1.4, dash: "dash"}, label: {text: plain(`${item.metric} ${item.op} ${figures(item.bound)}`), font: {size: 11, color: color.soft}, textposition: "end"},
    ...(which === "x" ? {x0: item.bound, x1: item.bound, yref: "paper", y0: 0, y1: 1} : {y0: item.bound, y1: item.bound, xref: "paper", x0: 0, x1: 1})})));
  const matter = [...own.members, ...own.arm], rest = [...own.others, ...own.out, ...own.early];
  const spans = name => matter.map(index => [-1, 0, 1].map(side => at(name, index) + side * (own.members.length <= BARS ? half(name, index) : 0)).filter(value => value > 0 || at(name, index) <= 0));
  const [across, up] = [x, y].map(name => focus(spans(name), rest.map(index => cell(name, index)), state.data.constraints.filter(item => item.metric === name).map(item => item.bound)));
  const beyond = rest.filter(index => [[x, across], [y, up]].some(([name, at]) => at.ends && finite(cell(name, index)) && (cell(name, index) < at.ends[0] || cell(name, index) > at.ends[1]))).length;
  const along = (name, {range, type, ends}) => axis(name, ends || all(name), range ? {range, type, ...(type === "linear" ? {dtick: undefined} : {})} : {});
  $("frontnote").textContent = `Orange diamonds are not dominated in all objectives together, so some lie off the line of these two${state.data.members.some(item => item.of !== "own") ? "; they stand where they were measured anew" : ""}.${own.members.length <= BARS ? " Bars: 95 % intervals." : ""}${beyond ? ` ${figures(beyond)} ${beyond === 1 ? "trial lies" : "trials lie"} outside: a double click shows all.` : ""} Click a trial for its record.`;
  return {traces: traces.filter(item => item.x.length), layout: {xaxis: along(x, across), yaxis: along(y, up), shapes: lines}};
}

function spread(item, indices) {
  // Places of a dimension's values on an axis: numbers as they are, choices at whole numbers with a little width.
  const values = indices.map(index => cell(`config.${item.path}`, index));
  if (item.kind !== "choice") return {at: values.map(value => finite(value) ? value : null), axis: item.kind === "log" ? {type: "log"} : {}};
  const labels = [...new Set([...(item.values || []).map(compact), ...values.map(compact)])].filter(label => label !== "–" || values.some(value => value === null || value === undefined));
  const jitter = index => ((index * 0.61803) % 1 - 0.5) * 0.5;
  return {at: values.map((value, place) => labels.indexOf(compact(value)) + jitter(indices[place])), axis: {tickvals: labels.map((_, place) => place), ticktext: labels.map(label => plain(label === "–" ? "not searched" : label.length > 20 ? `${label.slice(0, 19)}…` : label)), range: [-0.6, labels.length - 0.4], tickangle: labels.length > 4 ? 35 : 0}};
}
const labelsOf = item => (item.values || []).map(value => compact(value).slice(0, 20));
function dimensionsFigure() {
  const metric = $("dimobj").value, color = COLORS(), own = groups(), dims = state.data.dimensions.slice(0, PANELS);
  const rest = [...own.others, ...own.out, ...own.arm.filter(index => !own.members.includes(index))];
  if (!dims.length || !(rest.length + own.members.length)) return null;
  const columns = innerWidth < 700 ? 1 : Math.min(3, dims.length), lines = Math.ceil(dims.length / columns), traces = [];
  const PLOT = 190, room = [...Array(lines).keys()].map(row => dims.slice(row * columns, (row + 1) * columns).some(item => item.kind === "choice" && labelsOf(item).join("").length > 24) ? 122 : 62);
  const total = room.reduce((sum, gap) => sum + gap + PLOT, 0), starts = room.map((_, row) => room.slice(0, row).reduce((sum, gap) => sum + gap + PLOT, 0));
  const layout = {showlegend: false, height: total + 12, margin: {l: 56, r: 14, t: 10, b: 2}};
  dims.forEach((item, number) => {
    const id = number ? number + 1 : "", row = Math.floor(number / columns), column = number % columns;
    const both = [...rest, ...own.members], {at, axis: extra} = spread(item, both);
    const pick = (indices, from, label, marker) => ({type: both.length > MANY ? "scattergl" : "scatter", mode: "markers", name: label, xaxis: `x${id}`, yaxis: `y${id}`, x: at.slice(from, from + indices.length), y: indices.map(index => cell(metric, index)), customdata: indices.map(index => cell("trial", index)), text: indices.map(hover), hovertemplate: "%{text}<extra></extra>", marker});
    traces.push(pick(rest, 0, "complete", {size: 6, color: color.plain, opacity: 0.55}), pick(own.members, rest.length, "front", {size: 9, color: color.lit, symbol: "diamond", line: {width: 1, color: color.card}}));
    const values = both.map(index => cell(metric, index));
    layout[`xaxis${id}`] = {...axis(item.path, []), type: "linear", title: {text: plain(short(item.path)), standoff: 4}, domain: [column / columns + 0.025 * (column > 0) + 0.015, (column + 1) / columns - 0.015], anchor: `y${id}`, ...extra, automargin: false};
    layout[`yaxis${id}`] = {...axis(metric, values), title: {text: column ? "" : plain(metric), standoff: 4}, domain: [1 - (starts[row] + PLOT) / total, 1 - starts[row] / total], anchor: `x${id}`, automargin: false};
  });
  return {traces, layout};
}
function parallelFigure() {
  const own = groups(), indices = [...own.others, ...own.out, ...own.arm.filter(index => !own.members.includes(index)), ...own.members], color = COLORS();
  if (indices.length < 2) return null;
  const lit = new Set(own.members);
  const scale = (name, values, log) => { const good = values.filter(finite); if (!(log && Math.min(...good) > 0)) return {values}; const logs = values.map(value => finite(value) ? Math.log10(value) : null), low = Math.min(...good), high = Math.max(...good), ticks = [0, 1, 2, 3, 4].map(step => low * (high / low) ** (step / 4)); return {values: logs, tickvals: ticks.map(Math.log10), ticktext: ticks.map(figures)}; };
  const filled = made => { const good = made.values.filter(finite), low = Math.min(...good); return {...made, values: made.values.map(value => finite(value) ? value : low)}; };
  const dims = state.data.dimensions.map(item => {
    if (item.kind === "choice") { const values = indices.map(index => compact(cell(`config.${item.path}`, index))), labels = [...new Set(values)].sort(); return {label: short(item.path), values: values.map(value => labels.indexOf(value)), tickvals: labels.map((_, place) => place), ticktext: labels.map(label => label.slice(0, 22)), range: [-0.2, Math.max(0.2, labels.length - 0.8)]}; }
    return {label: short(item.path), ...filled(scale(item.path, indices.map(index => cell(`config.${item.path}`, index)), item.kind === "log"))};
  });
  const goals = state.data.objectives.map(item => { const values = indices.map(index => cell(item.metric, index)); const good = values.filter(finite); return {label: item.metric, ...filled(scale(item.metric, values, Math.max(...good) / Math.min(...good) > WIDE))}; });
  return {traces: [{type: "parcoords", dimensions: [...dims, ...goals], line: {color: indices.map(index => lit.has(cell("trial", index)) || lit.has(index) ? 1 : 0), colorscale: [[0, theme() === "dark" ? "#33597a" : "#a9cbe3"], [1, color.lit]], cmin: 0, cmax: 1}, labelfont: {size: 12, color: color.ink}, tickfont: {size: 10, color: color.soft}, rangefont: {size: 1, color: color.card}, unselected: {line: {opacity: 0.08}}}],
    layout: {margin: {l: 70, r: 60, t: 44, b: 20}, width: undefined}};
}
function importanceFigure() {
  const {importance, dimensions, objectives} = state.data;
  if (!Object.keys(importance).length) return null;
  const score = item => objectives.reduce((sum, goal) => sum + (importance[goal.metric]?.[item.path] || 0), 0);
  const order = [...dimensions].sort((a, b) => score(a) - score(b)), z = order.map(item => objectives.map(goal => importance[goal.metric]?.[item.path] || 0));
  return {traces: [{type: "heatmap", z, x: objectives.map(goal => plain(goal.metric)), y: order.map(item => plain(short(item.path))), text: z.map(row => row.map(value => `${Math.round(100 * value)} %`)), texttemplate: "%{text}", hovertemplate: "%{y} for %{x}: %{text}<extra></extra>", colorscale: theme() === "dark" ? [[0, "#171c24"], [1, "#2f7fb8"]] : [[0, "#f3f8fc"], [1, "#4a9bd0"]], zmin: 0, zmax: 1, showscale: false, xgap: 2, ygap: 2}],
    layout: {height: Math.max(330, 44 * order.length + 70), xaxis: {automargin: true, side: "bottom"}, yaxis: {automargin: true}}};
}
function volumeFigure() {
  const {progress} = state.data, color = COLORS(), x = $("hvx").value;
  if (!progress.hypervolume.length) return null;
  const scale = x === "seconds" ? (progress.seconds.at(-1) > 7200 ? 3600 : 60) : 1;
  const title = {seconds: scale === 60 ? "minutes of work" : "hours of work", device_hours: `${state.data.cost.unit}-hours on trials`, trials: "trials ended"}[x];
  return {traces: [{type: "scatter", mode: "lines", x: progress[x].map(value => value / scale), y: progress.hypervolume, line: {shape: "hv", width: 2.2, color: color.plain}, fill: "tozeroy", fillcolor: `${color.plain}22`, hovertemplate: "%{y:.4g} after %{x:.3g}<extra></extra>", name: "hypervolume"}],
    layout: {xaxis: {...axis(title, []), type: "linear", title: {text: title}}, yaxis: {...axis("hypervolume", []), type: "linear", title: {text: "hypervolume (share of the box)"}, rangemode: "tozero"}, showlegend: false}};
}
function curvesFigure() {
  const metric = $("curveobj").value, {rungs, front, trials} = state.data, color = COLORS(), lit = new Set(front);
  const kinds = {stopped: {name: "stopped", color: color.faint, width: 1, symbol: "x"}, complete: {name: "complete", color: color.plain, width: 1.1, symbol: "circle"}, front: {name: "front", color: color.lit, width: 2, symbol: "diamond"}};
  const traces = Object.values(kinds).map(kind => ({type: rungs.curves.length > MANY ? "scattergl" : "scatter", mode: "lines+markers", name: kind.name, x: [], y: [], text: [], customdata: [], connectgaps: false, line: {color: kind.color, width: kind.width}, marker: {size: 6, symbol: kind.symbol, color: kind.color}, opacity: kind.name === "front" ? 1 : 0.6, hovertemplate: "%{text}<extra></extra>"}));
  const at = {stopped: 0, complete: 1, front: 2}, numbers = new Map(trials.trial.map((trial, index) => [trial, index]));
  for (const curve of rungs.curves) {
    const index = numbers.get(curve.trial), kind = traces[lit.has(curve.trial) ? 2 : cell("state", index) === "complete" ? at.complete : at.stopped];
    curve.steps.forEach((step, number) => { kind.x.push(step); kind.y.push(curve[metric][number]); kind.text.push(`trial ${curve.trial}, ${step} steps: ${plain(inUnits(metric, curve[metric][number]))}`); kind.customdata.push(curve.trial); });
    kind.x.push(null); kind.y.push(null); kind.text.push(""); kind.customdata.push(null);
  }
  if (!traces.some(item => item.y.some(finite))) return null;
  const ys = traces.flatMap(item => item.y);
  return {traces: traces.filter(item => item.x.length), layout: {xaxis: {...axis("training steps", traces.flatMap(item => item.x)), title: {text: "training steps (rungs)"}, type: "log", tickvals: rungs.steps, ticktext: rungs.steps.map(String)}, yaxis: axis(metric, ys)}};
}
const FIGURES = {front: frontFigure, dimensions: dimensionsFigure, parallel: parallelFigure, importance: importanceFigure, volume: volumeFigure, curves: curvesFigure};

function csvOf(traces) {
  const quote = value => { let text = value === null || value === undefined ? "" : String(value); if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
  const rows = [["series", "trial", "x", "y", "z"]];
  for (const trace of traces) {
    if (trace.type === "parcoords") return [trace.dimensions.map(item => quote(item.label)).join(","), ...trace.dimensions[0].values.map((_, row) => trace.dimensions.map(item => quote(item.ticktext && item.values[row] === Math.round(item.values[row]) && item.range ? item.ticktext[item.values[row]] : item.values[row])).join(","))].join("\n");
    if (trace.type === "heatmap") { trace.z.forEach((line, row) => line.forEach((value, column) => rows.push(["importance", "", trace.x[column], trace.y[row], value]))); continue; }
    trace.x.forEach((value, index) => { if (value !== null) rows.push([trace.name, trace.customdata?.[index], value, trace.y[index], trace.z?.[index]]); });
  }
  return rows.map(row => row.map(quote).join(",")).join("\n");
}
