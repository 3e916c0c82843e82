"use strict";
// Starts the page: unpacks the data and the plotting library, fills what is text, draws a figure when it comes into view.
const $ = id => document.getElementById(id);
const state = {data: null, plotly: false, chosen: null, three: false, drawn: new Map()};

async function unpack(id) {
  const packed = atob($(id).textContent.trim()), bytes = new Uint8Array(packed.length);
  for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

// Everything that a run recorded reaches the page through textContent (here) or `plain` (figures): never as markup.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat().map(child => child instanceof Node ? child : document.createTextNode(String(child))));
  return node;
}
const fill = (node, ...children) => { node.replaceChildren(...children.flat()); return node; };

function theme() { return document.documentElement.dataset.theme; }
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  for (const [name, figure] of state.drawn) draw(name, figure);
}

function options(select, names, chosen) {
  fill(select, names.map(name => el("option", {value: name, selected: name === chosen}, names.label ? names.label(name) : name)));
  select.value = chosen;
}

function wire() {
  const metrics = state.data.objectives.map(item => item.metric);
  const axes = axisNames();
  const up = metrics.find(name => !costs(name)) || metrics[0], [first = "trial", second] = acrossFirst(metrics.filter(name => name !== up));
  options($("ax"), axes, first); options($("ay"), axes, up);
  options($("az"), axes, second || axes.find(name => name !== up && name !== first));
  options($("dimobj"), metrics, metrics[0]); options($("curveobj"), metrics, metrics[0]);
  for (const [id, figure] of [["ax", "front"], ["ay", "front"], ["az", "front"], ["dimobj", "dimensions"], ["hvx", "volume"], ["curveobj", "curves"]])
    $(id).addEventListener("change", () => redraw(figure));
  const turn = three => { state.three = three; $("two").setAttribute("aria-pressed", !three); $("three").setAttribute("aria-pressed", three); $("azl").hidden = !three; redraw("front"); };
  $("two").addEventListener("click", () => turn(false));
  $("three").addEventListener("click", () => turn(true));
  turn(false);
  $("theme").addEventListener("click", () => setTheme(theme() === "dark" ? "light" : "dark"));
}

function redraw(name) {
  if (state.drawn.has(name)) draw(name, state.drawn.get(name));
}

function draw(name, figure) {
  const place = figure.querySelector(".plot");
  const made = FIGURES[name]();
  if (!made) { fill(place, el("p", {class: "note"}, "Nothing to draw yet.")); place.style.minHeight = "0"; return; }
  const layout = {...base(), ...made.layout};
  state.drawn.set(name, figure);
  const done = Plotly.react(place, made.traces, layout, {responsive: true, displaylogo: false, displayModeBar: false});
  if (!place.dataset.wired) {
    place.dataset.wired = "1";
    place.on?.("plotly_click", event => {
      const trial = event.points?.[0]?.customdata;
      if (Number.isInteger(trial)) choose(trial, true);
    });
  }
  done.then(() => { figure.dataset.ready = "1"; });
}

function buttons(figure, name) {
  const save = form => Plotly.downloadImage(figure.querySelector(".plot"), {format: form, filename: `${state.data.run.folder}-${name}`, width: 1200, height: 720, scale: form === "png" ? 2 : 1});
  const bar = el("span", {class: "save"}, ["png", "svg"].map(form => el("button", {type: "button", onclick: () => save(form), title: `Save as ${form.toUpperCase()}`}, form.toUpperCase())),
    el("button", {type: "button", title: "Save the figure's points as CSV", onclick: () => download(csvOf(FIGURES[name]().traces), `${state.data.run.folder}-${name}.csv`)}, "CSV"));
  let tools = figure.querySelector("figcaption .tools");
  if (!tools) figure.querySelector("figcaption").append(tools = el("span", {class: "tools"}));
  tools.append(bar);
}

function download(text, name) {
  const link = el("a", {href: URL.createObjectURL(new Blob([text], {type: "text/csv"})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old for the report (it lacks DecompressionStream; any browser since 2023 has it)");
  const library = unpack("library");
  state.data = JSON.parse(await unpack("data"));
  write();
  wire();
  const script = document.createElement("script");
  script.textContent = await library;
  document.head.append(script);
  const watch = new IntersectionObserver(seen => seen.filter(item => item.isIntersecting).forEach(item => {
    watch.unobserve(item.target);
    draw(item.target.dataset.figure, item.target);
  }), {rootMargin: "300px"});
  for (const figure of document.querySelectorAll("[data-figure]")) {
    buttons(figure, figure.dataset.figure);
    watch.observe(figure);
  }
  addEventListener("beforeprint", () => {
    document.querySelectorAll("[data-figure]").forEach(figure => { watch.unobserve(figure); draw(figure.dataset.figure, figure); });
    document.querySelectorAll("details:not([open])").forEach(part => { part.open = true; part.dataset.folded = "yes"; });
  });
  addEventListener("afterprint", () => document.querySelectorAll("details[data-folded]").forEach(part => { part.open = false; delete part.dataset.folded; }));
  document.documentElement.dataset.loaded = String(Math.round(performance.now()));
}
start().catch(error => { $("fatal").textContent = `The report cannot be shown: ${error.message}`; $("fatal").hidden = false; throw error; });
