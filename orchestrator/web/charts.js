// Small charts of measured times: the median and the 95th percentile of what was measured, over time.

import { attribute, byId, el, svg, text } from "./dom.js";
import { clock, measured, plural } from "./format.js";

const CHARTS = [
  ["start", "Start", "request to own agent"],
  ["firstAudio", "First sound", "request to the agent's voice"],
];
const [WIDTH, HEIGHT] = [340, 118];
const FIELD = { left: 44, right: 8, top: 8, bottom: 20 };
const BUCKETS = 30;
const SHORTEST = 10 * 60;
const STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800];

export function charts(model) {
  const all = CHARTS.map(([name, title, what]) => chart(name, title, what));
  byId("charts").append(...all.map(({ node }) => node));
  let drawn = 0;
  return {
    draw() {
      for (const each of all) each.draw(model.charts[each.name] ?? [], model.now / 1000);
      drawn = Date.now();
    },
    tick() {
      if (Date.now() - drawn > 10_000) this.draw();
    },
  };
}

function chart(name, title, what) {
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "chart" });
  const [median, high, count] = [el("strong"), el("strong"), el("span", { class: "muted" })];
  const head = el(
    "p",
    { class: "chart-values" },
    el("span", { class: "key key-median" }, "p50 ", median),
    el("span", { class: "key key-high" }, "p95 ", high),
    count,
  );
  const node = el("figure", {}, el("figcaption", {}, el("strong", {}, title), " ", el("span", { class: "muted" }, what)), head, picture);
  let before = "";
  return {
    name,
    node,
    draw(samples, now) {
      const seconds = samples.map(([, value]) => value);
      text(median, measured(percentile(seconds, 50)));
      text(high, measured(percentile(seconds, 95)));
      text(count, samples.length ? `of ${plural(samples.length, "call")}` : "nothing measured yet");
      const key = `${samples.length} ${samples.at(-1)} ${Math.floor(now / 10)}`;
      if (key === before) return;
      before = key;
      attribute(picture, "aria-label", label(title, what, samples, seconds));
      picture.replaceChildren(...paint(samples, now));
    },
  };
}

function label(title, what, samples, seconds) {
  if (!samples.length) return `${title}, ${what}: nothing measured yet`;
  const [p50, p95] = [percentile(seconds, 50), percentile(seconds, 95)].map(measured);
  return `${title}, ${what}, since ${clock(samples[0][0] * 1000, "minute")}: p50 ${p50}, p95 ${p95}`;
}

/** The value below which so many percent lie (nearest rank); null of nothing. */
export function percentile(values, percent) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)];
}

function paint(samples, now) {
  const from = Math.min(samples[0]?.[0] ?? now, now - SHORTEST);
  const groups = grouped(samples, from, now);
  const top = ceiling(Math.max(0.01, ...groups.map((group) => group.high)));
  const x = (at) => FIELD.left + ((WIDTH - FIELD.left - FIELD.right) * (at - from)) / (now - from);
  const y = (value) => HEIGHT - FIELD.bottom - ((HEIGHT - FIELD.top - FIELD.bottom) * value) / top;
  return [...grid(x, y, from, now, top), ...line(groups, "high", x, y), ...line(groups, "median", x, y)];
}

/** The median and the high value of each stretch of time in which something was measured. */
function grouped(samples, from, to) {
  const groups = new Map();
  for (const [at, value] of samples) {
    const index = Math.min(BUCKETS - 1, Math.max(0, Math.floor((BUCKETS * (at - from)) / (to - from))));
    if (!groups.has(index)) groups.set(index, []);
    groups.get(index).push([at, value]);
  }
  return [...groups.values()].map((group) => {
    const values = group.map(([, value]) => value);
    return {
      at: group.reduce((sum, [at]) => sum + at, 0) / group.length,
      count: group.length,
      median: percentile(values, 50),
      high: percentile(values, 95),
    };
  });
}

function line(groups, kind, x, y) {
  const points = groups.map((group) => `${x(group.at).toFixed(1)},${y(group[kind]).toFixed(1)}`);
  return [
    svg("polyline", { points: points.join(" "), class: `line line-${kind}` }),
    ...groups.map((group) =>
      svg(
        "circle",
        { cx: x(group.at).toFixed(1), cy: y(group[kind]).toFixed(1), r: groups.length > 12 ? 1.6 : 2.4, class: `dot dot-${kind}` },
        svg("title", {}, `${clock(group.at * 1000)}: p50 ${measured(group.median)}, p95 ${measured(group.high)}, ${plural(group.count, "call")}`),
      ),
    ),
  ];
}

function grid(x, y, from, to, top) {
  const marks = [0, top / 2, top].flatMap((value) => [
    svg("line", { x1: FIELD.left, x2: WIDTH - FIELD.right, y1: y(value), y2: y(value), class: "grid" }),
    svg("text", { x: FIELD.left - 5, y: y(value) + 3.5, class: "tick tick-value" }, value ? measured(value) : "0"),
  ]);
  const step = STEPS.find((seconds) => (to - from) / seconds <= 4.5) ?? STEPS.at(-1);
  // Whole steps of the local day, not of UTC's.
  const shift = new Date(from * 1000).getTimezoneOffset() * 60;
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) {
    if (x(at) > WIDTH - FIELD.right - 12) continue;
    marks.push(
      svg("line", { x1: x(at), x2: x(at), y1: HEIGHT - FIELD.bottom, y2: HEIGHT - FIELD.bottom + 3, class: "grid" }),
      svg("text", { x: x(at), y: HEIGHT - 5, class: "tick" }, clock(at * 1000, "minute")),
    );
  }
  return marks;
}

/** The next round number above a value. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 5, 10].find((factor) => factor * power >= value * 0.999);
}
