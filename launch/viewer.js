// The page's script: one clock, and everything that follows it frame by frame.
"use strict";

const element = (id) => document.getElementById(id);

function decode(base64 = "") {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// ---------------------------------------------- the data ----------------------------------------------

const data = JSON.parse(element("data").textContent);
const rate = data.frame_rate_hz;
const lastFrame = Math.max(data.frame_count - 1, 0);
const times = Array.from({ length: data.frame_count }, (_, at) => at / rate);
const faces = (data.faces.length ? data.faces : [{ first_frame: 0 }]).map(readFace);

/** What was predicted for a face: functions of the frame's number, over all frames of the page. */
function readFace(face) {
  const rows = (base64, width) => {
    const values = new Float32Array(data.frame_count * width).fill(NaN);
    values.set(new Float32Array(decode(base64).buffer), face.first_frame * width);
    return (at) => values.subarray(at * width, (at + 1) * width);
  };
  const flags = (base64) => {
    const values = new Uint8Array(data.frame_count);
    values.set(decode(base64), face.first_frame);
    return (at) => values[at] === 1;
  };
  return {
    box: rows(face.box, 4),
    expression: rows(face.expression, 8),
    affect: rows(face.valence_arousal, 2),
    spread: rows(face.spread, 2),
    hasFace: flags(face.face_valid),
    hasVoice: flags(face.voice_valid),
  };
}

let face = faces[0];
let frame = 0;
let zoomed = false;

// ---------------------------------------- what shows one frame ----------------------------------------

const viewer = element("viewer");
const boxes = [...document.querySelectorAll(".box")];
const bars = [...document.querySelectorAll(".bars li")];
const trail = [...document.querySelectorAll("#trail line")];
const faceButtons = [...document.querySelectorAll(".faces button")];
const plots = [];

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function timeText(seconds, decimals) {
  const rest = (seconds % 60).toFixed(decimals);
  return `${Math.floor(seconds / 60)}:${rest.padStart(decimals ? 3 + decimals : 2, "0")}`;
}

function show(at) {
  frame = Math.min(Math.max(at, 0), lastFrame);
  showTime();
  showBoxes();
  showExpression();
  showAffect();
  for (const { plot } of plots) showHand(plot);
}

function showTime() {
  if (!element("time")) return;
  element("time").textContent = timeText(frame / rate, 2);
  element("frame").textContent = frame;
  if (!player.paused) return; // Nobody wants 25 times a second read aloud.
  element("presence").setAttribute("aria-valuenow", frame);
  element("presence").setAttribute("aria-valuetext", timeText(frame / rate, 2));
}

function showBoxes() {
  const [width, height] = data.size;
  for (const [i, box] of boxes.entries()) {
    const [left, top, right, bottom] = faces[i].box(frame);
    box.hidden = Number.isNaN(left);
    box.classList.toggle("chosen", faces[i] === face);
    box.classList.toggle("high", top < height / 10); // No room for the name above it.
    box.style.left = `${(100 * left) / width}%`;
    box.style.top = `${(100 * top) / height}%`;
    box.style.width = `${(100 * (right - left)) / width}%`;
    box.style.height = `${(100 * (bottom - top)) / height}%`;
  }
}

function showExpression() {
  const probabilities = face.expression(frame);
  const highest = Math.max(...probabilities);
  for (const [i, bar] of bars.entries()) {
    const known = !Number.isNaN(probabilities[i]);
    bar.classList.toggle("most", probabilities[i] === highest);
    bar.querySelector("i").style.transform = `scaleX(${known ? probabilities[i] : 0})`;
    bar.querySelector("output").textContent = known ? `${Math.round(100 * probabilities[i])}\u202f%` : "–";
  }
}

function showAffect() {
  if (!element("point")) return;
  const value = face.affect(frame);
  const spread = face.spread(frame);
  for (const [i, name] of ["valence", "arousal"].entries()) {
    if (!element(`${name}-now`)) continue;
    const band = Number.isNaN(spread[i]) ? "" : ` ± ${spread[i].toFixed(2)}`;
    element(`${name}-now`).textContent = Number.isNaN(value[i]) ? "–" : `${signed(value[i])}${band}`;
  }
  const [x, y] = [100 * value[0], -100 * value[1]];
  const [width, height] = [100 * spread[0], 100 * spread[1]];
  const within = (edge) => Math.min(Math.max(edge, -100), 100);
  const cross = `M${within(x - width)} ${y}H${within(x + width)}M${x} ${within(y - height)}V${within(y + height)}`;
  place(element("point"), { cx: x, cy: y });
  place(element("whiskers"), { d: cross });
  for (const [age, line] of trail.entries()) {
    const [x1, y1] = frame > age ? face.affect(frame - age) : [NaN, NaN];
    const [x2, y2] = frame > age ? face.affect(frame - age - 1) : [NaN, NaN];
    place(line, { x1: 100 * x1, y1: -100 * y1, x2: 100 * x2, y2: -100 * y2 });
  }
}

/** Gives a shape its place; without one it is hidden. */
function place(shape, attributes) {
  const known = !Object.values(attributes).join().includes("NaN");
  shape.style.display = known ? "" : "none";
  if (known) for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
}

// --------------------------------------- what shows many frames ---------------------------------------

const AXIS_WIDTH = 44;
const colour = (name) => getComputedStyle(viewer).getPropertyValue(name).trim();
const numbers = (value) => times.map((_, at) => (Number.isNaN(value(at)) ? null : value(at)));

/** What the plots show: all, or only the minute in which the frame lies. */
function shownSpan() {
  if (!zoomed) return [0, times[lastFrame]];
  const begin = Math.floor(times[frame] / data.zoom_s) * data.zoom_s;
  return [begin, begin + data.zoom_s];
}

/** Moves a plot's hand to the frame, and the plot along where it has left it. */
function showHand(plot) {
  const [min, max] = shownSpan();
  if (plot.scales.x.min !== min || plot.scales.x.max !== max) plot.setScale("x", { min, max });
  else plot.setCursor({ left: plot.valToPos(times[frame], "x"), top: 0 });
}

/** Runs of frames for which something holds, as pairs of times. */
function runs(holds) {
  const found = [];
  for (let at = 0; at <= lastFrame; at++) {
    if (!holds(at)) continue;
    const begin = at;
    while (at < lastFrame && holds(at + 1)) at++;
    found.push([begin / rate, (at + 1) / rate]);
  }
  return found;
}

/** Fills the runs of frames for which something holds, between two values of y. */
function fillRuns(plot, holds, low, high, fill) {
  const y = (value) => plot.valToPos(value, "y", true);
  const x = (time) => plot.valToPos(time, "x", true);
  const [first, last] = shownSpan();
  plot.ctx.save(); // uPlot remembers what it has set.
  plot.ctx.fillStyle = fill;
  for (const [begin, end] of runs(holds)) {
    const [left, right] = [x(Math.max(begin, first)), x(Math.min(end, last, times[lastFrame]))];
    if (left < right) plot.ctx.fillRect(left, y(high), right - left, y(low) - y(high));
  }
  plot.ctx.restore();
}

/** A plot over time that moves the clock where it is clicked; `columns` gives its series for the chosen face. */
function addPlot(host, height, { range, splits, labels, series, bands, columns, hooks, timeAxis }) {
  const text = { stroke: () => colour("--soft"), font: `12px ${getComputedStyle(document.body).fontFamily}` };
  const grid = { stroke: () => colour("--rule"), width: 1 };
  const unbound = () => null;
  const options = {
    width: host.clientWidth,
    height,
    padding: [6, 14, timeAxis ? 0 : 6, 0],
    legend: { show: false },
    cursor: {
      y: false, // The vertical line is the clock's hand: it follows the clock rather than the mouse.
      bind: { mousemove: unbound, mouseenter: unbound, mouseleave: unbound, mousedown: unbound, dblclick: unbound },
    },
    scales: { x: { time: false, range: shownSpan }, y: { range } },
    axes: [
      {
        ...text,
        show: timeAxis,
        grid: { show: false },
        ticks: { ...grid, size: 5 },
        size: 28,
        incrs: [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600],
        values: (_, ticks) => ticks.map((time) => timeText(time, ticks[1] % 1 ? 1 : 0)),
      },
      {
        ...text,
        grid: timeAxis ? { show: false } : grid,
        ticks: { show: false },
        size: AXIS_WIDTH,
        splits: () => splits,
        values: () => labels,
      },
    ],
    series: [{}, ...series],
    bands,
    hooks: { ...hooks, draw: [...(hooks.draw ?? []), showHand] },
  };
  const plot = new uPlot(options, [times, ...columns()], host);
  const seek = (event) => {
    const left = event.clientX - plot.over.getBoundingClientRect().left;
    const [begin, end] = shownSpan().map((time) => Math.round(time * rate));
    const at = Math.round(plot.posToVal(left, "x") * rate);
    jump(Math.min(Math.max(at, begin), zoomed ? end - 1 : end));
  };
  plot.over.addEventListener("pointerdown", (event) => {
    plot.over.setPointerCapture(event.pointerId);
    seek(event);
  });
  plot.over.addEventListener("pointermove", (event) => {
    if (plot.over.hasPointerCapture(event.pointerId)) seek(event);
  });
  new ResizeObserver(() => plot.setSize({ width: host.clientWidth, height })).observe(host);
  plots.push({ plot, columns });
}

function addAffectPlot(name, dimension) {
  const value = (at) => face.affect(at)[dimension];
  const line = { pxAlign: 0, points: { show: false } };
  const edgeOfBand = { ...line, class: "edge" };
  const edge = (side) => (at) => Math.min(Math.max(value(at) + side * face.spread(at)[dimension], -1), 1);
  const shadeFaceless = (plot) => fillRuns(plot, (at) => !face.hasFace(at), -1, 1, `${colour("--soft")}20`);
  addPlot(element(name), 132, {
    range: [-1, 1],
    splits: [-1, -0.5, 0, 0.5, 1],
    labels: ["−1", "", "0", "", "1"],
    series: [{ ...line, stroke: () => colour("--colour"), width: 2 }, edgeOfBand, edgeOfBand],
    bands: [{ series: [2, 3], fill: () => `${colour("--colour")}30` }],
    columns: () => [numbers(value), numbers(edge(1)), numbers(edge(-1))],
    hooks: { drawClear: data.has_face ? [shadeFaceless] : [] },
  });
}

function addPresence() {
  const lane = (plot, holds, middle) => {
    fillRuns(plot, () => true, middle - 0.3, middle + 0.3, `${colour("--soft")}20`);
    fillRuns(plot, holds, middle - 0.3, middle + 0.3, `${colour("--soft")}a0`);
  };
  addPlot(element("presence"), 70, {
    range: [0, 2],
    splits: [0.5, 1.5],
    labels: ["voice", "face"],
    series: [],
    columns: () => [],
    hooks: { draw: [(plot) => lane(plot, face.hasFace, 1.5), (plot) => lane(plot, face.hasVoice, 0.5)] },
    timeAxis: true,
  });
}

// --------------------------------------- what moves the clock ---------------------------------------

const player = element("player");

function jump(at) {
  show(at);
  player.currentTime = (frame + 0.5) / rate; // Half a frame in, where rounding can't lead to another one.
}

function step(direction, bySecond) {
  if (!bySecond) player.pause();
  jump(frame + direction * (bySecond ? rate : 1));
}

function toggle() {
  if (player.paused) player.play()?.catch(() => {}); // It is rejected when paused again before it began.
  else player.pause();
}

function choose(number) {
  face = faces[number];
  viewer.style.setProperty("--colour", data.faces[number]?.colour ?? "");
  for (const [i, button] of faceButtons.entries()) button.setAttribute("aria-pressed", i === number);
  for (const { plot, columns } of plots) plot.setData([times, ...columns()]);
  show(frame);
}

function zoom() {
  zoomed = !zoomed;
  element("zoom").setAttribute("aria-pressed", zoomed);
  show(frame);
}

/** Shows each frame with the picture it belongs to; without pictures, when the clock says so. */
function follow() {
  if (player.requestVideoFrameCallback) {
    player.requestVideoFrameCallback((_, picture) => {
      if (!player.seeking) show(Math.round(picture.mediaTime * rate));
      follow();
    });
    return;
  }
  if (!player.paused) show(Math.floor(player.currentTime * rate));
  if (player.currentTime >= player.duration && !player.paused) player.pause();
  requestAnimationFrame(follow);
}

function press(event) {
  const onButton = event.target.closest("button");
  if (event.ctrlKey || event.altKey || event.metaKey || (event.key === " " && onButton)) return;
  const actions = {
    " ": toggle,
    ArrowLeft: () => step(-1, event.shiftKey),
    ArrowRight: () => step(1, event.shiftKey),
    Home: () => jump(0),
    End: () => jump(lastFrame),
    z: element("zoom") && zoom,
  };
  const number = Number.parseInt(event.key, 10) - 1;
  const action = actions[event.key] ?? (faces[number] && (() => choose(number)));
  if (!action) return;
  event.preventDefault();
  action();
}

function begin() {
  if (element("duration")) element("duration").textContent = timeText(lastFrame / rate, 2);
  if (element("recording")) {
    player.src = URL.createObjectURL(new Blob([decode(element("recording").textContent)], { type: data.media_type }));
    element("recording").remove();
  }
  if (element("valence")) {
    addAffectPlot("valence", 0);
    addAffectPlot("arousal", 1);
  }
  if (element("presence")) addPresence();
  if (element("play")) {
    for (const change of ["play", "pause"]) {
      player.addEventListener(change, () => {
        element("play").textContent = player.paused ? "Play" : "Pause";
      });
    }
    element("play").addEventListener("click", toggle);
    element("screen")?.addEventListener("click", toggle);
    document.addEventListener("keydown", press);
    follow();
  }
  element("zoom")?.addEventListener("click", zoom);
  for (const [i, button] of faceButtons.entries()) button.addEventListener("click", () => choose(i));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose(faces.indexOf(face)));
  choose(0);
}

begin();
