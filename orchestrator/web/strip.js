// The strip on top: what is warm, starting, in calls and in line, against what there should be; and all warnings.

import { attribute, byId, el, rows, text } from "./dom.js";
import { plural } from "./format.js";

const TILES = [
  {
    id: "warm",
    name: "Warm agents",
    value: (n) => n.pool,
    note: (n) => [`of ${n.target} wanted`, n.booting && `${n.booting} booting`, n.stale && `${n.stale} on old code`],
    share: (n) => [n.pool, n.target],
    bad: (n) => n.target > 0 && n.pool === 0,
    odd: (n) => n.pool < n.target,
  },
  { id: "starting", name: "Starting", value: (n) => n.starting, note: () => ["wait for an agent"], odd: (n) => n.starting > 10 },
  { id: "ready", name: "Joining", value: (n) => n.ready, note: () => ["user on the way"] },
  {
    id: "active",
    name: "In calls",
    value: (n) => n.active,
    note: (n) => [`${n.starting + n.ready + n.active} of ${n.max} sessions in use`],
    share: (n) => [n.starting + n.ready + n.active, n.max],
    odd: (n) => n.starting + n.ready + n.active >= n.max,
  },
  {
    id: "queued",
    name: "In line",
    value: (n) => n.queued,
    note: (n) => [n.line ? `of ${plural(n.line, "place")}` : "there is no line"],
    share: (n) => [n.queued, n.line],
    odd: (n) => n.queued > 0,
    bad: (n) => n.line > 0 && n.queued >= n.line,
  },
];

export function strip(model) {
  const tiles = TILES.map((tile) => ({ ...tile, ...tileNodes(tile) }));
  byId("strip").append(...tiles.map((tile) => tile.node));
  const warnings = byId("warnings");
  const list = el("ul");
  const title = el("p");
  warnings.append(title, list);
  const update = rows(list, () => {
    const node = el("li");
    return { node, update: (words) => text(node, words) };
  });

  return {
    draw() {
      if (!model.health) return;
      text(byId("version"), `version ${model.health.version}`);
      const counts = { ...model.health.sessions, line: model.queueLimit };
      for (const tile of tiles) {
        text(tile.number, tile.value(counts));
        text(tile.small, tile.note(counts).filter(Boolean).join(", "));
        attribute(tile.node, "data-level", tile.bad?.(counts) ? "bad" : tile.odd?.(counts) ? "odd" : null);
        if (!tile.share) continue;
        const [part, whole] = tile.share(counts);
        tile.bar.style.inlineSize = `${whole ? Math.min(100, (100 * part) / whole) : 0}%`;
      }
      const found = model.health.warnings.map(sentence);
      attribute(warnings, "data-level", found.length ? "odd" : "fine");
      text(title, found.length ? plural(found.length, "warning") : "No warnings.");
      update(found, (words) => words);
    },
  };
}

function tileNodes({ id, name, share }) {
  const number = el("span", { class: "figure" }, "–");
  const small = el("span", { class: "note" });
  const bar = el("span", { class: "bar-fill" });
  const body = [number, small];
  if (share) body.splice(1, 0, el("span", { class: "bar", "aria-hidden": "true" }, bar));
  return { number, small, bar, node: el("div", { class: "tile", id: `tile-${id}` }, el("dt", {}, name), el("dd", {}, ...body)) };
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);
