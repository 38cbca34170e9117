// Who calls: a random id that this browser keeps, and the secret of its last session: with both a reloaded page, or
// another tab, finds its call again.

import type { Session } from "./api";

/** Several orchestrators may be below paths of one origin, which share what is stored: each has its own. */
const BELOW = new URL(".", document.baseURI).pathname.replace(/^\/$/, "");
const KEY = `talk.user${BELOW}`;
const SESSION = `talk.session${BELOW}`;
let remembered: string | undefined;
let last: Session | undefined;

export function randomId(): string {
  // crypto.randomUUID is for secure pages only.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function caller(): string {
  try {
    const kept = localStorage.getItem(KEY);
    if (kept) return kept;
    remembered ??= `web-${randomId()}`;
    localStorage.setItem(KEY, remembered);
  } catch {
    remembered ??= `web-${randomId()}`; // storage is switched off: the same for as long as the page is open
  }
  return remembered;
}

/** The session that this browser began last; it may be over. */
export function kept(): Session | undefined {
  try {
    const text = localStorage.getItem(SESSION);
    return text ? (JSON.parse(text) as Session) : last;
  } catch {
    return last;
  }
}

export function keep({ sessionId, clientSecret }: Session): void {
  last = clientSecret ? { sessionId, clientSecret } : { sessionId };
  try {
    localStorage.setItem(SESSION, JSON.stringify(last));
  } catch {
    // storage is switched off: known for as long as the page is open
  }
}

/** Forget a session that is being ended. */
export function drop({ sessionId }: Session): void {
  if (kept()?.sessionId !== sessionId) return;
  last = undefined;
  try {
    localStorage.removeItem(SESSION);
  } catch {
    // storage is switched off
  }
}

/** Become somebody else: this one's session is live, and nothing here shows that it is theirs. */
export function renew(): void {
  last = undefined;
  remembered = `web-${randomId()}`;
  try {
    localStorage.removeItem(SESSION);
    localStorage.setItem(KEY, remembered);
  } catch {
    // as above
  }
}
