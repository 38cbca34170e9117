// Text from strangers: shown as what it is, and never obeyed. The rule is that of the terminal, orchestrator/text.py.

// C0, DEL, C1; what cannot be seen; what turns the direction of writing; line ends; halves of pairs; tags.
const UNSAFE =
  /[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff0-\ufffb\ud800-\udfff\u{e0000}-\u{e0fff}]/gu;
const SHORT = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };

/** A text in which such characters are written out (\x9b, \u202e); everything else stays. */
export const oneLine = (text) => text.replace(UNSAFE, (character) => SHORT[character] ?? written(character.codePointAt(0)));

function written(code) {
  const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
  return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
}
