// The operator's streams: with the admin token, until it is refused.

import { Refused, request } from "./api.js";
import { follow as followStream } from "./sse.js";

/**
 * Follow a stream of the api as sse.js does. `on.locked(failure)` when a token is needed; `on.lost(failure)` gets what
 * the api said: what a browser says of a connection that broke is for its makers.
 */
export function follow(path, on, options) {
  const connect = (signal, lastId) => request(path, { signal, headers: lastId ? { "Last-Event-ID": lastId } : {} });
  return followStream(
    connect,
    {
      ...on,
      lost(failure) {
        if (failure?.final) on.locked?.(failure);
        else on.lost?.(failure instanceof Refused ? failure : null);
      },
    },
    options,
  );
}
