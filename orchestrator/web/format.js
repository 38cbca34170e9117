// Numbers and times as people read them.

/** A length of time: 0.153 s, 42 s, 12:03, 3:10:05, 4 d 3 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const all = Math.max(0, Math.floor(seconds));
  if (all < 60) return `${all} s`;
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** A short measured time: <1 ms, 42 ms, 0.64 s, 12.3 s. */
export function measured(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return "<1 ms";
  if (seconds < 0.1) return `${Math.round(seconds * 1000)} ms`;
  return `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
}

export function bytes(count) {
  if (!count) return "–";
  const mebibytes = count / 2 ** 20;
  if (mebibytes >= 1024) return `${(mebibytes / 1024).toFixed(1)} GiB`;
  return `${mebibytes < 10 ? mebibytes.toFixed(1) : Math.round(mebibytes)} MiB`;
}

const clocks = {
  second: new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }),
  minute: new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }),
  day: new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }),
};

/** A time of day, from milliseconds since 1970; with the date when it is not within the last day. */
export function clock(at, precision = "second") {
  const old = Math.abs(Date.now() - at) > 86_400_000;
  return clocks[old ? "day" : precision].format(at);
}

const exact = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** A date and a time of day. */
export const full = (at) => exact.format(at);

/** An id of a session or an agent. */
export const ID = "(?:prewarm|session)_[0-9a-f]{32}";

/** An id that can be told from others: its kind and eight digits of it. */
export const short = (id) => String(id ?? "").replace(/^(\w+_[0-9a-f]{8})[0-9a-f]{24}$/, "$1");

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
