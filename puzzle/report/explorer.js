"use strict";
const { layouts, resources, command } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const steps = Object.fromEntries(resources.map((name) => [
  name, [...new Set(layouts.map((each) => each.shares[name]))].sort((a, b) => a - b),
]));
const sliders = {};
let selected = layouts.findIndex((each) => each.chosen);

function card(layout, place) {
  const rows = [
    ["sum of scores", `${layout.kl.toFixed(4)} nats per token`],
    ["number of parameters", layout.parameters.toLocaleString("en")],
    ...resources.map((name) => [`${name}, share of the parent's`, percent(layout.shares[name])]),
    ["blocks", layout.words],
  ];
  place.replaceChildren();
  const list = document.createElement("dl");
  for (const [name, value] of rows) {
    list.append(Object.assign(document.createElement("dt"), { textContent: name }));
    list.append(Object.assign(document.createElement("dd"), { textContent: value }));
  }
  const picture = document.createElement("div");
  picture.innerHTML = layout.picture; // made by the page's own generator
  const code = document.createElement("pre");
  code.textContent = command.replace("CONSTRAINTS", layout.constraints);
  place.append(picture, list, code);
}

function draw() {
  const axis = byId("axis").value;
  const colour = getComputedStyle(document.body).color;
  const grid = { gridcolor: getComputedStyle(document.documentElement).getPropertyValue("--line") };
  const group = (chosen) => layouts.map((each, at) => [each, at]).filter(([each]) => each.chosen === chosen);
  const trace = (name, chosen, symbol, size) => ({
    name, type: "scatter", mode: "markers", marker: { symbol, size, line: { width: 1 } },
    x: group(chosen).map(([each]) => each.shares[axis]), y: group(chosen).map(([each]) => each.kl),
    customdata: group(chosen).map(([, at]) => at),
    text: group(chosen).map(([each]) => each.constraints),
    hovertemplate: "%{text}<br>%{y:.4f} nats per token<extra></extra>",
  });
  const now = layouts[selected];
  const traces = [trace("solved", false, "circle", 9), trace("chosen by the search", true, "diamond", 13)];
  if (now) {
    traces.push({
      name: "selected", type: "scatter", mode: "markers", hoverinfo: "skip",
      marker: { symbol: "circle-open", size: 20, color: colour, line: { width: 3 } },
      x: [now.shares[axis]], y: [now.kl],
    });
  }
  Plotly.react("chart", traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour },
    margin: { t: 10, r: 10 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, colorway: ["#0072b2", "#d55e00"],
    xaxis: { ...grid, title: { text: `${axis}, share of the parent's` }, tickformat: ".0%" },
    yaxis: { ...grid, title: { text: "sum of scores, nats per token" }, rangemode: "tozero" },
  }, { responsive: true, displayModeBar: false });
}

function show(at) {
  selected = at;
  byId("none").hidden = at >= 0;
  byId("keep").disabled = at < 0;
  if (at >= 0) card(layouts[at], byId("one"));
  else byId("one").replaceChildren();
  draw();
}

function asked() {
  const budgets = resources.map((name) => [name, steps[name][Number(sliders[name].value)]]);
  for (const [name, budget] of budgets) byId(`budget-${name}`).value = `at most ${percent(budget)}`;
  return budgets;
}

function pick() {
  const budgets = asked();
  let best = -1;
  layouts.forEach((each, at) => {
    const kept = budgets.every(([name, budget]) => each.shares[name] <= budget * (1 + 1e-9));
    if (kept && (best < 0 || each.kl < layouts[best].kl)) best = at;
  });
  show(best);
}

for (const name of resources) {
  const slider = Object.assign(document.createElement("input"), {
    type: "range", min: 0, max: steps[name].length - 1, step: 1, id: `slider-${name}`,
  });
  slider.value = steps[name].length - 1;
  const label = Object.assign(document.createElement("label"), { textContent: name, htmlFor: slider.id });
  const output = Object.assign(document.createElement("output"), { id: `budget-${name}`, htmlFor: slider.id });
  slider.addEventListener("input", pick);
  sliders[name] = slider;
  byId("sliders").append(label, output, slider);
  byId("axis").append(Object.assign(document.createElement("option"), { textContent: name }));
}
byId("axis").addEventListener("change", draw);
byId("across").hidden = resources.length < 2;
byId("keep").addEventListener("click", () => card(layouts[selected], byId("other")));
// A link may carry budgets: #seconds=3&parameters=5, by the slider's step.
const linked = new URLSearchParams(location.hash.slice(1));
for (const name of resources) if (linked.has(name)) sliders[name].value = linked.get(name);
if (resources.some((name) => linked.has(name))) pick();
else {
  for (const name of resources) byId(`budget-${name}`).value = "any";
  show(selected);
}
byId("chart").on("plotly_click", (event) => {
  const at = event.points[0].customdata;
  if (at === undefined) return;
  // The sliders say what the layout keeps, so that the next move starts from there.
  for (const name of resources) sliders[name].value = steps[name].indexOf(layouts[at].shares[name]);
  asked();
  show(at);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
