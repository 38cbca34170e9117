// Server-sent events over fetch: EventSource cannot send the header that carries the token.

import { Refused, request } from "./api.js";

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;

/**
 * Follow a stream until `close()` is called, the server says that nothing more will come, or the token is refused;
 * comes back after every loss, with the id of the last message.
 *
 * `on.message(event, data)`; `on.open()`; `on.lost(failure)` for every loss; `on.locked(failure)` when a token is
 * needed. `silence`: milliseconds without a byte after which the connection counts as lost; `from`: the id to go on at.
 */
export function follow(path, on, { silence = 40_000, last = "end", from = "" } = {}) {
  let closed = false;
  let lastId = from;
  let pause = FIRST_PAUSE;
  let connection = null;
  let wake = null;

  async function run() {
    while (!closed) {
      try {
        if (await once()) return;
        on.lost?.(null);
      } catch (failure) {
        if (closed) return;
        if (failure.locked) {
          closed = true;
          on.locked?.(failure);
          return;
        }
        if (failure.retryAfter) pause = Math.max(pause, failure.retryAfter * 1000);
        // What a browser says of a connection that broke is for its makers.
        on.lost?.(failure instanceof Refused ? failure : null);
      }
      await nap(pause * (0.75 + Math.random() / 2));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  function nap(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Read one connection to its end; returns whether nothing more is to come. */
  async function once() {
    connection = new AbortController();
    const { signal } = connection;
    let watchdog;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => connection.abort(new Error("silent")), silence);
    };
    heard();
    try {
      const answer = await request(path, { signal, headers: lastId ? { "Last-Event-ID": lastId } : {} });
      if (answer.status === 204) return true;
      on.open?.();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const parse = parser();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return false;
        heard();
        pause = FIRST_PAUSE;
        for (const message of parse(value)) {
          if (message.id) lastId = message.id;
          on.message(message.event, message.data === "" ? null : JSON.parse(message.data));
          if (message.event === last) return true;
        }
      }
    } finally {
      clearTimeout(watchdog);
      connection.abort();
    }
  }

  /** Try again at once: the machine is awake or connected again. */
  const hurry = () => wake?.();
  window.addEventListener("online", hurry);
  run();

  return {
    /** The id of the last message. */
    get place() {
      return lastId;
    },
    close() {
      closed = true;
      connection?.abort();
      hurry();
      window.removeEventListener("online", hurry);
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
