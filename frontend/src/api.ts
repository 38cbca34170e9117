// The orchestrator's HTTP api, as far as a caller needs it.

/** Where the api is; not set: beside this page, which may be served below a path. */
const BASE: string = import.meta.env.VITE_API_URL || ".";
/** Who starts sessions; with API keys that is one's own backend, which passes the answer on. */
const START: string = import.meta.env.VITE_START_URL || `${BASE}/api/session/start`;

export interface Session {
  sessionId: string;
  clientSecret?: string;
}

export interface Started extends Session {
  status: string;
  /** The user had it already: an earlier start, of whichever page, began it. */
  existing?: boolean;
  position?: number;
  estimatedWaitSeconds?: number;
}

export interface SessionEvent {
  at: number;
  state: string;
  phase?: string;
  position?: number;
  /** Why the session is over: see `words.ts`. */
  reasonCode?: string;
  reasonParams?: Record<string, string | number>;
}

export interface Snapshot {
  status: string;
  position?: number;
  estimatedWaitSeconds?: number;
  reasonCode?: string;
  reasonParams?: Record<string, string | number>;
  events: SessionEvent[];
}

export interface Token {
  server_url: string;
  participant_token: string;
}

/** An answer that is no success: RFC 9457. What is shown goes by `code`; its `detail` is for developers. */
interface Problem {
  status: number;
  code: string;
  retryAfter?: number;
  /** By it the operator finds the request in the log. */
  requestId?: string;
}

export class Refused extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.code);
    this.problem = problem;
  }
}

/** No answer at all. */
export class Unreachable extends Error {}

export interface Api {
  /** `mine`: the session that the user may still have. */
  start(userId: string, key: string, mine?: Session): Promise<Started>;
  look(session: Session, signal: AbortSignal): Promise<Snapshot>;
  events(session: Session, after: string | undefined, signal: AbortSignal): Promise<Response>;
  token(session: Session, signal: AbortSignal): Promise<Token>;
  stop(session: Session): Promise<void>;
}

export const api: Api = {
  start: (userId, key, mine) => {
    // One's own backend knows its users, and may have another use for this header.
    const shown = mine && !import.meta.env.VITE_START_URL ? known(mine) : {};
    return ask(START, { method: "POST", body: { userId }, headers: { "Idempotency-Key": key, ...shown } });
  },
  look: (session, signal) => ask(path(session), { headers: known(session), signal }),
  events: (session, after, signal) => {
    const resume: Record<string, string> = after ? { "Last-Event-ID": after } : {};
    const headers = { Accept: "text/event-stream", ...known(session), ...resume };
    return fetch(`${path(session)}/events`, { headers, signal, cache: "no-store" });
  },
  token: (session, signal) =>
    ask(`${BASE}/api/token`, {
      method: "POST",
      body: { sessionId: session.sessionId },
      headers: known(session),
      signal,
    }),
  stop: async (session) => {
    const body = { sessionId: session.sessionId };
    // Sent also when the page is being closed.
    await ask(`${BASE}/api/session/stop`, { method: "POST", body, headers: known(session), keepalive: true });
  },
};

function path(session: Session): string {
  return `${BASE}/api/session/${encodeURIComponent(session.sessionId)}`;
}

function known(session: Session): Record<string, string> {
  return session.clientSecret ? { Authorization: `Bearer ${session.clientSecret}` } : {};
}

interface Asked {
  method?: string;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  keepalive?: boolean;
}

async function ask<T>(url: string, { body, headers, ...rest }: Asked): Promise<T> {
  const options: RequestInit = { ...rest, headers: { ...headers } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { ...headers, "Content-Type": "application/json" };
  }
  let answer: Response;
  try {
    answer = await fetch(url, options);
  } catch (failure) {
    if (options.signal?.aborted) throw failure;
    throw new Unreachable(String(failure));
  }
  if (!answer.ok) throw new Refused(await problem(answer));
  return (await answer.json()) as T;
}

async function problem(answer: Response): Promise<Problem> {
  const wait = Number(answer.headers.get("Retry-After"));
  const found: Problem = { status: answer.status, code: "unknown" };
  if (wait > 0) found.retryAfter = wait;
  try {
    const { code, retryAfter, requestId } = (await answer.json()) as Partial<Problem>;
    if (typeof code === "string") found.code = code;
    if (typeof retryAfter === "number") found.retryAfter = retryAfter;
    if (typeof requestId === "string") found.requestId = requestId;
  } catch {
    // a proxy's page
  }
  return found;
}
