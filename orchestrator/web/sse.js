// Server-sent events over fetch: EventSource cannot send the header that carries a secret. The status page and the page
// with the Talk button (frontend/) both follow their streams by it, with one rule for coming back.

/** Milliseconds until a lost stream is opened again: twice as long after each failure in a row, with some chance. */
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8_000;

/**
 * Follow a stream until `close()` is called, the server says that nothing more will come (204, or the event `last`), a
 * failure is `final`, or `attempts` connections in a row have brought no message. Comes back after every other loss,
 * with the id of the last message.
 *
 * `connect(signal, lastId)` sends the request. Where it throws, the failure's `retryAfter` (seconds) is waited for.
 * `on.message(event, data)`; `on.open()`; `on.lost(failure)` for every loss, null when the stream just ended.
 * `silence`: milliseconds without a byte after which a connection counts as lost; `first`: the same before the first one.
 */
export function follow(connect, on, { silence = 40_000, first = silence, last = "end", from = "", attempts = Infinity } = {}) {
  let lastId = from;
  let closed = false;
  let failures = 0;
  let connection = null;
  let wake = () => {};

  async function run() {
    while (!closed) {
      let wait = 0;
      try {
        if (await once()) return "over";
        failures += 1;
        if (!closed) on.lost?.(null);
      } catch (failure) {
        if (closed) break;
        failures += 1;
        on.lost?.(failure);
        if (failure.final) return "refused";
        wait = (failure.retryAfter ?? 0) * 1000;
      }
      if (failures >= attempts) return "given_up";
      if (!closed) await nap(Math.max(wait, Math.min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)));
    }
    return "closed";
  }

  const nap = (milliseconds) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds * (0.75 + Math.random() / 2));
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  /** Read one connection to its end; returns whether nothing more is to come. */
  async function once() {
    connection = new AbortController();
    const { signal } = connection;
    const opened = connection;
    let watchdog;
    const expect = (milliseconds) => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => opened.abort(), milliseconds);
    };
    expect(first);
    try {
      const answer = await connect(signal, lastId);
      if (answer.status === 204) return true;
      on.open?.();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const parse = parser();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return false;
        expect(silence);
        for (const { id, event, data } of parse(value)) {
          failures = 0;
          if (id) lastId = id;
          on.message(event, data === "" ? null : JSON.parse(data));
          if (event === last) return true;
          if (closed) return false;
        }
      }
    } finally {
      clearTimeout(watchdog);
      opened.abort();
    }
  }

  // The machine is awake, or connected again: try at once.
  const hurry = () => wake();
  globalThis.addEventListener?.("online", hurry);
  const done = run().finally(() => globalThis.removeEventListener?.("online", hurry));

  return {
    /** Resolves when nothing more will come: over, refused, given up or closed. */
    done,
    /** The id of the last message. */
    get place() {
      return lastId;
    },
    close() {
      closed = true;
      connection?.abort();
      wake();
    },
  };
}

/** Return a function that takes the next piece of a stream and returns the messages that it completes. */
export function parser() {
  let rest = "";
  return (piece) => {
    const messages = [];
    rest += piece;
    let end;
    while ((end = rest.search(/\r?\n\r?\n/)) >= 0) {
      const block = rest.slice(0, end);
      rest = rest.slice(end).replace(/^\r?\n\r?\n/, "");
      const message = { event: "message", data: [], id: "" };
      for (const line of block.split(/\r?\n/)) {
        const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === "data") message.data.push(value);
        else if (field === "event" || field === "id") message[field] = value;
      }
      if (message.data.length) messages.push({ ...message, data: message.data.join("\n") });
    }
    return messages;
  };
}
