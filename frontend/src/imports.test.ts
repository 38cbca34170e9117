// Imports run one way: no module of the page imports, over others, itself.

import { describe, expect, it } from "vitest";

const sources = import.meta.glob<string>("./*.{ts,tsx}", { query: "?raw", import: "default", eager: true });

/** The modules of this folder that a module imports, types too. */
function imported(text: string): string[] {
  const names = [...text.matchAll(/(?:\bfrom|\bimport\(|^import)\s*"(\.\/[^"]+)"/gm)].map((match) => match[1]!);
  return names.flatMap((name) => [`${name}.ts`, `${name}.tsx`].filter((file) => file in sources));
}

const graph = new Map(Object.entries(sources).map(([name, text]) => [name, imported(text)]));

/** The way from a module back to itself, undefined when there is none. */
function circle(to: string, at = to, way: string[] = []): string[] | undefined {
  for (const next of graph.get(at) ?? []) {
    if (next === to) return [...way, at, to];
    if (way.includes(next) || next === at) continue;
    const found = circle(to, next, [...way, at]);
    if (found) return found;
  }
  return undefined;
}

describe("imports", () => {
  it("are found", () => {
    expect(graph.get("./caller.ts")).toContain("./machine.ts");
    expect(graph.size).toBeGreaterThan(15);
  });

  it.each([...graph.keys()])("of %s lead back to no module that imports it", (name) => expect(circle(name)).toBeUndefined());
});
