"use strict";
const byId = (id) => document.getElementById(id);
const tracing = document.body.dataset.task === "knowledge_tracing";
const WIDTH = 960, HEIGHT = 340, LEFT = 52, RIGHT = 150, TOP = 14, BOTTOM = 46;
const LINES = 6;

function element(name, attributes, ...children) {
  const svg = ["svg", "path", "line", "circle", "text", "title", "g", "polyline", "polygon"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const reply = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  if (reply.status === 401) byId("key-form").hidden = false;
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.detail || `the service answered ${reply.status}`);
  return found;
}

function say(text, bad) {
  byId("said").textContent = text;
  byId("said").className = bad ? "bad" : "";
}

async function names() {
  const kind = tracing ? "students" : "series";
  const found = await call(`/v1/${kind}?limit=50&contains=${encodeURIComponent(byId("name").value)}`);
  byId("names").replaceChildren(...found.names.map((one) => element("option", { value: one.name })));
  return found.names;
}

const percent = (p) => `${(100 * p).toFixed(1)} %`;
const signed = (x) => `${x < 0 ? "−" : "+"}${(100 * Math.abs(x)).toFixed(1)}`;

function axes(svg, low, high, places, word) {
  const y = (v) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (v - low) / (high - low));
  for (let i = 0; i <= 4; i++) {
    const value = low + (i / 4) * (high - low);
    svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, tracing ? `${+(100 * value).toFixed(1)} %` : short(value)));
  }
  svg.append(element("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, word));
  for (const [x, text, anchor] of places) svg.append(element("text", { x, y: HEIGHT - 22, "text-anchor": anchor || "middle" }, text));
  return y;
}

const when = (stamp) => String(stamp).replace("T", " ").replace(/:00$/, "");
const short = (value) => Number(value.toPrecision(4)).toLocaleString("en");

function chart() {
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  byId("chart").replaceChildren(svg);
  return svg;
}

function around(least, most) {
  const middle = (least + most) / 2, half = Math.max(0.1, (most - least) * 0.55);
  const low = Math.max(0, Math.floor(20 * (middle - half)) / 20);
  return [low, Math.min(1, low + Math.ceil(40 * half) / 20)].map((v) => Math.round(v * 20) / 20);
}

function apart(labels) {
  labels.sort((a, b) => a.y - b.y);
  for (let i = 1; i < labels.length; i++) labels[i].y = Math.max(labels[i].y, labels[i - 1].y + 16);
  return labels;
}

function drawMastery(found) {
  const times = found.over_time, count = found.now.length;
  const moved = found.now.map((_, i) => times.reduce((sum, one) => sum + Math.abs(one.change[i]), 0));
  const shown = [...moved.keys()].sort((a, b) => moved[b] - moved[a]).slice(0, Math.min(LINES, count));
  const svg = chart();
  svg.append(element("title", {}, `Mastery of ${found.student} after each of ${times.length} answers`));
  const first = times[0].place;
  const x = (i) => LEFT + (times.length > 1 ? (i / (times.length - 1)) * (WIDTH - LEFT - RIGHT) : 0);
  const every = Math.max(1, Math.ceil(times.length / 10));
  const places = times.flatMap((one, i) => (i % every ? [] : [[x(i), String(first + i)]]));
  const told = shown.flatMap((concept) => times.map((one) => one.p_correct[concept]));
  const [low, high] = around(Math.min(...told), Math.max(...told));
  const y = axes(svg, low, high, places, "answer");
  const labels = [];
  shown.forEach((concept, n) => {
    const points = times.map((one, i) => `${x(i)},${y(one.p_correct[concept])}`).join(" ");
    svg.append(element("polyline", { class: `line s${n} dash${n}`, points }, element("title", {}, found.now[concept].name)));
    labels.push({ y: y(times[times.length - 1].p_correct[concept]) + 4, text: found.now[concept].name, n });
  });
  for (const one of apart(labels)) {
    const text = one.text.length > 18 ? `${one.text.slice(0, 17)}…` : one.text;
    svg.append(element("text", { class: `name t${one.n}`, x: WIDTH - RIGHT + 10, y: one.y }, text));
  }
  times.forEach((one, i) => {
    const mark = element("circle", { class: one.response ? "right" : "wrong", cx: x(i), cy: HEIGHT - BOTTOM + 8, r: 3.5 });
    mark.append(element("title", {}, `answer ${one.place}: question ${one.question ?? "unnamed"}, ${one.response ? "right" : "wrong"}`));
    svg.append(mark);
  });
}

function showMastery(found) {
  for (const id of ["over-time", "changes"]) byId(id).hidden = !found.over_time.length || !found.now.length;
  byId("now").hidden = !found.now.length;
  if (found.over_time.length && found.now.length) drawMastery(found);
  byId("now-rows").replaceChildren(...found.now.map((one) => element("tr", {},
    element("td", {}, one.name + (one.unknown ? " (unknown to the model)" : "")),
    element("td", {}, element("meter", { min: 0, max: 1, value: one.p_correct }), ` ${percent(one.p_correct)}`))));
  byId("change-rows").replaceChildren(...[...found.over_time].reverse().map((one) => {
    const order = [...one.change.keys()].sort((a, b) => Math.abs(one.change[b]) - Math.abs(one.change[a])).slice(0, 3);
    const parts = order.map((i) => element("span", { class: "change" }, `${found.now[i].name} `, element("b", { class: one.change[i] < 0 ? "down" : "up" }, signed(one.change[i]))));
    return element("tr", {}, element("td", {}, String(one.place)), element("td", {}, one.question ?? "—"),
      element("td", {}, one.concepts.join(", ") || "—"), element("td", {}, one.response ? "right" : "wrong"), element("td", {}, ...parts));
  }));
  const word = found.n_answers === 1 ? "answer" : "answers";
  say(found.n_answers ? `${found.student}: ${found.n_answers} ${word}` : `${found.student} has not answered yet: this is where every new student begins`);
}

function drawForecast(past, found) {
  const svg = chart();
  svg.append(element("title", {}, `The last values of ${found.series} and its forecast`));
  const steps = found.steps, levels = steps[0].intervals.map((one) => one.level).sort((a, b) => b - a);
  const total = past.y.length + steps.length;
  const x = (i) => LEFT + (i / Math.max(1, total - 1)) * (WIDTH - LEFT - RIGHT);
  const values = [...past.y.filter((v) => v !== null), ...steps.flatMap((one) => [one.y, ...one.intervals.flatMap((b) => [b.low, b.high])])];
  let low = Math.min(...values), high = Math.max(...values);
  const room = 0.05 * (high - low || 1);
  low -= room; high += room;
  const stamps = [...past.ds, ...steps.map((one) => one.ds)];
  const anchors = ["start", "middle", "end"];
  const places = [0, Math.floor((total - 1) / 2), total - 1].map((i, n) => [x(i), when(stamps[i] ?? i + 1), anchors[n]]);
  const y = axes(svg, low, high, places, "");
  const start = past.y.length;
  // The fan opens at the last value, of which nothing is uncertain.
  const end = past.y.findLastIndex((value) => value !== null);
  const opening = end < 0 ? [] : [`${x(end)},${y(past.y[end])}`];
  for (const level of levels) {
    const band = (end) => steps.map((one, i) => `${x(start + i)},${y(one.intervals.find((b) => b.level === level)[end])}`);
    svg.append(element("polygon", { class: "band", points: [...opening, ...band("high"), ...band("low").reverse()].join(" ") }, element("title", {}, `${level} % interval`)));
  }
  let run = [];
  const flush = () => { if (run.length) svg.append(element("polyline", { class: "line past", points: run.join(" ") })); run = []; };
  past.y.forEach((value, i) => (value === null ? flush() : run.push(`${x(i)},${y(value)}`)));
  flush();
  svg.append(element("polyline", { class: "line ahead", points: [...opening, ...steps.map((one, i) => `${x(start + i)},${y(one.y)}`)].join(" ") }));
  const last = steps[steps.length - 1];
  const labels = [{ y: y(last.y) + 4, text: "forecast", n: 0 }, ...levels.map((level) => ({ y: y(last.intervals.find((b) => b.level === level).high) + 4, text: `${level} %`, n: 0 }))];
  for (const one of apart(labels)) svg.append(element("text", { class: "name t0", x: WIDTH - RIGHT + 10, y: one.y }, one.text));
}

function showForecast(past, found) {
  byId("ahead").hidden = byId("steps").hidden = false;
  const levels = found.steps[0].intervals.map((one) => one.level);
  byId("levels").textContent = levels.length
    ? `The line is the forecast; the bands are calibrated to hold ${levels.join(" and ")} percent of the values at each step.`
    : "The line is the forecast; no intervals were calibrated.";
  byId("notes").textContent = found.notes.join(". ");
  drawForecast(past, found);
  const header = ["Step", "When", "Forecast", ...levels.map((level) => `${level} % interval`)];
  byId("step-names").replaceChildren(...header.map((text) => element("th", {}, text)));
  byId("step-rows").replaceChildren(...found.steps.map((one) => element("tr", {},
    element("td", {}, String(one.step)), element("td", {}, when(one.ds ?? "—")), element("td", {}, short(one.y)),
    ...one.intervals.map((b) => element("td", {}, `${short(b.low)} to ${short(b.high)}`)))));
  say(`${found.series}: ${found.n_observations} values`);
}

async function show() {
  const name = byId("name").value, path = encodeURIComponent(name), last = byId("last").value;
  if (!name) return;
  say("one moment …");
  try {
    if (tracing) showMastery(await call(`/v1/students/${path}/mastery?last=${last}`));
    else showForecast(await call(`/v1/series/${path}/values?last=${last}`), await call("/v1/forecast", { series: name }));
    history.replaceState(null, "", `#${path}`);
  } catch (error) {
    say(error.message, true);
  }
}

async function start() {
  try {
    const known = await names();
    const asked = decodeURIComponent(location.hash.slice(1));
    if (asked) byId("name").value = asked;
    if (!known.length) say(tracing ? "No student has answered yet: post to /v1/interactions." : "No series has values yet: post to /v1/observations.");
    await show();
  } catch (error) {
    say(error.message, true);
  }
}

byId("choose").addEventListener("submit", (event) => { event.preventDefault(); show(); });
byId("name").addEventListener("input", () => names().catch(() => {}));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value);
  byId("key-form").hidden = true;
  start();
});
start();
