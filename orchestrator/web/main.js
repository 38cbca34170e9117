// The status page: asks for the token, follows the status stream, and draws what it says.

import { get, token } from "./api.js";
import { agents } from "./agents.js";
import { charts } from "./charts.js";
import { detail } from "./detail.js";
import { byId, text } from "./dom.js";
import { failures } from "./failures.js";
import { link } from "./link.js";
import { Model } from "./model.js";
import { parts } from "./parts.js";
import { pool } from "./pool.js";
import { sessions } from "./sessions.js";
import { follow } from "./stream.js";
import { strip } from "./strip.js";
import { readWords } from "./words.js";

const model = new Model();
/** Messages come every two seconds; a connection that is silent for longer than this is dead. */
const SILENCE = 7000;

let stream = null;
let views = null;
let drawing = false;

function build() {
  const panel = detail(model);
  const list = sessions(model, panel.open);
  panel.onChange(list.select);
  return [strip(model), list, agents(model, panel.open), charts(model), pool(model, panel.open), failures(model, panel.open), parts(model), panel];
}

/** Draw soon: once for however many messages came, and not at all while nobody can see it. */
function draw() {
  title();
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    each((view) => view.draw());
  });
}

/** One view that fails leaves the others as fresh as they can be. */
function each(work) {
  for (const view of views) {
    try {
      work(view);
    } catch (failure) {
      reportError(failure);
    }
  }
}

function title() {
  if (!model.health) return;
  const { sessions: counts, warnings } = model.health;
  const stale = link.live ? "" : "? ";
  document.title = `${stale}${warnings.length ? `(${warnings.length}!) ` : ""}${counts.active} in calls · Status`;
}

function open() {
  byId("door").hidden = true;
  byId("page").hidden = false;
  views ??= build();
  link.connecting();
  // Without them the reasons' texts are shown.
  readWords().then(draw, () => {});
  stream = follow(
    "api/status/events",
    {
      message(event, data) {
        if (event === "trouble") {
          link.trouble(data.detail);
        } else {
          model.take(event, data);
          link.heard(model.at);
        }
        draw();
      },
      lost(failure) {
        link.lost(failure?.message);
        title();
      },
      locked: (failure) => lock(failure.message),
    },
    { silence: SILENCE },
  );
}

function lock(why = "") {
  stream?.close();
  stream = null;
  token.forget();
  views?.at(-1).close();
  document.title = "Status";
  byId("page").hidden = true;
  byId("door").hidden = false;
  text(byId("login-trouble"), why);
  byId("token").value = "";
  byId("token").focus();
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = byId("login").querySelector("button");
  text(byId("login-trouble"), "");
  token.set(byId("token").value.trim());
  button.disabled = true;
  try {
    // Health needs no token, this does: a wrong one is reported here, not by a stream that never opens.
    await get("api/status");
    byId("token").value = "";
    open();
    window.scrollTo(0, 0);
  } catch (failure) {
    const wrong = failure.locked ? `This is not the admin token. ${failure.message}` : failure.message;
    lock(wrong);
  } finally {
    button.disabled = false;
  }
});
byId("leave").addEventListener("click", () => lock());
// Ages advance; stale data does not change.
setInterval(() => {
  link.tick();
  if (views && link.live && stream) each((view) => view.tick?.());
}, 1000);

if (token.get()) open();
else lock();
