// What the page knows, kept up to date by the status stream.

export const LIVE = new Set(["queued", "starting", "ready", "active"]);

export class Model {
  sessions = new Map();
  agents = new Map();
  health = null;
  charts = { start: [], firstAudio: [] };
  beat = { lives: false, tasks: {} };
  failures = [];
  queueLimit = 0;
  /** Server's clock minus this machine's, in milliseconds. */
  skew = 0;
  /** When the server last looked, by its clock, in milliseconds. */
  at = 0;

  /** Milliseconds since 1970 by the server's clock. */
  get now() {
    return Date.now() + this.skew;
  }

  /** Take a message of the status stream: everything, or what has changed. */
  take(event, data) {
    if (event === "snapshot") this.sessions.clear();
    this.at = data.at * 1000;
    this.skew = this.at - Date.now();
    for (const session of data.sessions ?? []) this.sessions.set(session.sessionId, session);
    for (const id of data.gone ?? []) this.sessions.delete(id);
    if (data.agents) this.agents = new Map(data.agents.map((agent) => [agent.agentId, agent]));
    for (const name of ["health", "charts", "beat", "failures", "queueLimit"]) if (name in data) this[name] = data[name];
  }

  /** All sessions, newest first. */
  get newest() {
    return [...this.sessions.values()].sort((a, b) => (a.createdAt < b.createdAt ? 1 : a.createdAt > b.createdAt ? -1 : 0));
  }

  /** Seconds that a session has lasted, or lasted in all. */
  age(session) {
    return session.timings.ended ?? (this.now - Date.parse(session.createdAt)) / 1000;
  }

  memory(session) {
    return this.agents.get(session.agentId)?.memory ?? null;
  }
}
