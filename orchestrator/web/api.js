// Talks to the api. The token stays in this tab's session storage, and travels in a header, never in an address.

// Several orchestrators may be below paths of one origin, which share what is stored: each has its own.
const KEY = `admin-token${new URL(".", document.baseURI).pathname.replace(/^\/$/, "")}`;

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A request that came to nothing. `status` is 0 when there was no answer at all. */
export class Refused extends Error {
  constructor(status, detail, retryAfter = 0) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
  /** Whether another token is needed. */
  get locked() {
    return this.status === 401 || this.status === 403;
  }
  /** Whether a stream is not to be asked for again (sse.js). */
  get final() {
    return this.locked;
  }
}

/** Send a request; returns the response, or throws `Refused` in the words of the api. */
export async function request(path, { headers = {}, ...options } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      ...options,
      headers: { Authorization: `Bearer ${token.get()}`, ...headers },
      cache: "no-store",
      credentials: "omit",
    });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new Refused(0, "The api does not answer. Is the node up, and is this machine connected to it?");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Refused(
    answer.status,
    problem.detail ?? `The api answered ${answer.status} ${answer.statusText}.`,
    Number(answer.headers.get("Retry-After")) || 0,
  );
}

export const get = async (path, options) => (await request(path, options)).json();

export async function post(path, body) {
  const options = { method: "POST" };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  return (await request(path, options)).json();
}
