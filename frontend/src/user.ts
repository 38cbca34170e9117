// Who calls: a random id that this browser keeps, so that a reloaded page finds its call again.

const KEY = "talk.user";
let remembered: string | undefined;

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
