// What happened, in plain sentences. The words for a reason's code are the api's: GET /api/reasons (orchestrator/reasons.toml).

import { get } from "./api.js";
import { short } from "./format.js";

let table = { reasons: {}, signals: {}, events: {} };

/** Read the table; until it is there, and for a code that it lacks, a reason is its text. */
export async function readWords() {
  table = await get("api/reasons");
}

const known = (code) => (code && Object.hasOwn(table.reasons, code) ? table.reasons[code] : null);

/** A template of the table with its parameters: a part in brackets needs all of its own; a signal has its name too. */
function filled(template, params) {
  const given = (part) => [...part.matchAll(/\{(\w+)\}/g)].every(([, name]) => params[name] !== undefined);
  const whole = template.replace(/\[([^[\]]+)\]/g, (_, part) => (given(part) ? part : ""));
  return whole.replace(/\{(\w+)\}/g, (_, name) => {
    if (name === "cause") return filled(known(params.cause)?.text ?? "", params);
    const value = params[name] ?? "?";
    return name === "signal" && table.signals[value] ? `${value} (${table.signals[value]})` : String(value);
  });
}

/** What is known beside a code: killed by signal 9 (SIGKILL). */
function facts(row, params) {
  const attempts = params.attempts ? ` (after ${params.attempts} attempts)` : "";
  return [filled(row.text ?? "", params), params.detail].filter(Boolean).join(": ") + attempts;
}

/** The reason that an answer has as `name`, `${name}Code` and `${name}Params`. */
const reasonOf = (answer, name) => ({
  text: answer[name] ?? "",
  row: known(answer[`${name}Code`]),
  params: answer[`${name}Params`] ?? {},
});

/** Why a session is over. */
export function reasonWords(answer, name = "reason") {
  const { text, row, params } = reasonOf(answer, name);
  if (!row?.operator) return causeWords(answer, name);
  const more = facts(row, params);
  return more ? `${row.operator} (${more})` : row.operator || text;
}

/** Why an agent ended, or was replaced. */
export function causeWords(answer, name = "cause") {
  const { text, row, params } = reasonOf(answer, name);
  return row ? [row.prefix, facts(row, params)].filter(Boolean).join(": ") || text : text;
}

/** How the process of an agent ended, and why where that is something else. */
export function endWords(agent) {
  const { signal, exitCode, cause, causeCode, causeParams } = agent;
  const code = signal ? "killed" : exitCode === undefined ? "" : exitCode ? "crashed" : "finished";
  const ended = code && known(code) ? facts(known(code), { signal, exitCode }) : "";
  if (!ended || !cause) return causeWords(agent) || ended;
  // The text of a record without a code is all that is known; a boot that failed has the end of its process within.
  const told = !causeCode || [causeCode, causeParams?.cause].includes(code) || causeCode === "process_gone";
  return told ? causeWords(agent) : `${ended} (${causeWords(agent)})`;
}

/** An event of a session's history as a sentence; the name of its state where the table has none. */
export function eventWords(event, agents) {
  const row = table.events[event.state === "boot" ? `boot_${event.phase}` : event.state];
  if (row === undefined) return event.state.replaceAll("_", " ");
  const agent = event.state === "ready" ? agents.get(event.agentId) : null;
  const where = agent?.pid ? ` (pid ${agent.pid} on ${agent.node})` : "";
  const over = event.state === "ended" || event.state === "error";
  const reason = over ? reasonWords(event) || table.events.reason_unknown : causeWords(event) || table.events.cause_unknown;
  const seconds = event.state === "first_audio" ? event.at.toFixed(3) : undefined;
  return filled(row, { position: event.position, agent: `${short(event.agentId)}${where}`, reason, seconds });
}
