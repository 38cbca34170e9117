// How fresh the page is: live, reconnecting, or stale since a time. Numbers that may be old are never shown as new.

import { attribute, byId, text } from "./dom.js";
import { clock } from "./format.js";

/** Milliseconds without news after which the numbers count as old. */
const PATIENCE = 6000;

let state = "connecting";
let heardAt = 0; // by this machine's clock
let saidAt = 0; // when the server looked, by its clock
let why = "";

export const link = {
  get live() {
    return state === "live";
  },
  connecting() {
    state = "connecting";
    show();
  },
  heard(at) {
    [state, heardAt, saidAt] = ["live", Date.now(), at];
    show();
  },
  lost(cause) {
    state = "lost";
    why = cause ?? "The connection to the api was closed.";
    show();
  },
  trouble(cause) {
    state = "trouble";
    why = cause;
    show();
  },
  tick() {
    if (state === "live" && Date.now() - heardAt > PATIENCE) link.lost("The api has sent nothing for a while.");
  },
};

const WORDS = { connecting: "Connecting …", live: "Live", lost: "Reconnecting …", trouble: "No data" };

function show() {
  const indicator = byId("link");
  attribute(indicator, "data-link", state);
  text(indicator, WORDS[state]);
  const old = state === "lost" || state === "trouble";
  attribute(byId("page"), "data-stale", old && saidAt > 0);
  const banner = byId("stale");
  banner.hidden = !old;
  if (!old) return text(banner, "");
  const since = saidAt ? `Stale since ${clock(saidAt)}: what you see below is from then. ` : "";
  text(banner, `${since}${why} Trying again until it works.`);
}
