// Asks before something is done that cannot be taken back, and says how something went.

import { byId, text } from "./dom.js";

/** Ask; resolves to whether it is to be done. Escape is no. */
export function ask(title, question, yes) {
  const dialog = byId("ask");
  text(byId("ask-title"), title);
  text(byId("ask-text"), question);
  text(byId("ask-yes"), yes);
  return new Promise((resolve) => {
    let answer = false;
    const choose = (value) => () => {
      answer = value;
      dialog.close();
    };
    const [agree, refuse] = [choose(true), choose(false)];
    byId("ask-yes").addEventListener("click", agree);
    byId("ask-no").addEventListener("click", refuse);
    dialog.addEventListener(
      "close",
      () => {
        byId("ask-yes").removeEventListener("click", agree);
        byId("ask-no").removeEventListener("click", refuse);
        resolve(answer);
      },
      { once: true },
    );
    dialog.showModal();
    byId("ask-no").focus();
  });
}

let hiding = 0;

/** Say something for a few seconds. */
export function say(words, level = "fine") {
  const toast = byId("toast");
  text(toast, words);
  toast.dataset.level = level;
  toast.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => {
    toast.classList.remove("shown");
    text(toast, "");
  }, 6000);
}

/** Do something that a button asks for: once at a time, its failure said in the api's words. Returns its result. */
export async function act(button, work) {
  button.disabled = true;
  try {
    return await work();
  } catch (failure) {
    say(failure.message, "bad");
    return null;
  } finally {
    button.disabled = false;
  }
}
