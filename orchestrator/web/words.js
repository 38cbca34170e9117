// What happened, in plain sentences. The words for a reason's code are the api's: GET /api/reasons (orchestrator/reasons.toml).

import { get } from "./api.js";
import { measured, short } from "./format.js";

let table = { reasons: {}, signals: {} };

/** Read the table; until it is there, and for a code that it lacks, a reason is its text. */
export async function readWords() {
  table = await get("api/reasons");
}

const known = (code) => (code && Object.hasOwn(table.reasons, code) ? table.reasons[code] : null);

/** A template of the table with its parameters; a signal has its name too. */
function filled(template, params) {
  return template.replace(/\{(\w+)\}/g, (_, name) => {
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

/** An event of a session's history as a sentence. */
export function eventWords(event, agents) {
  const agent = agents.get(event.agentId);
  const who = event.agentId ? `${short(event.agentId)}${agent?.pid ? ` (pid ${agent.pid} on ${agent.node})` : ""}` : "an agent";
  const cause = event.cause ? `: ${causeWords(event)}` : "";
  switch (event.state) {
    case "queued":
      return `All places were taken: in line${event.position ? `, number ${event.position}` : ""}`;
    case "starting":
      return "Waits for an agent";
    case "boot":
      return { claimed: "A node starts an agent", process: "The agent's process runs", warm: "The agent is warm" }[event.phase] ?? "The agent boots";
    case "boot_retried":
      return `The agent did not boot${cause}; another one is tried`;
    case "ready":
      return `Got ${who}`;
    case "agent_joined":
      return "The agent is in the room";
    case "active":
      return "User and agent are in the room: the call goes on";
    case "first_audio":
      return `The agent was heard, ${measured(event.at)} after the start`;
    case "user_left":
      return "The user left the room";
    case "user_lost":
      return "The user's connection was lost";
    case "user_back":
      return "The user is back";
    case "takeover":
      return `The agent was lost${cause}. Another one takes over`;
    case "replacement":
      return `The agent was lost before the call began${cause}. Another one comes`;
    case "agent_exited":
      return `The process of ${who} ended${cause}`;
    case "goodbye":
      return "The node stops: the agent says goodbye";
    case "goodbye_off":
      return "The node is in service again: the call is not ended for it";
    case "registered":
      return "Redis had lost this session; its agent registered it again";
    case "ended":
      return `Ended: ${reasonWords(event) || "nobody said why"}`;
    case "error":
      return `Failed: ${reasonWords(event) || "nobody said why"}`;
    default:
      return event.state.replaceAll("_", " ");
  }
}
