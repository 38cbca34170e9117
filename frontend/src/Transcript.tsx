import { useEffect, useRef } from "react";

import type { Said } from "./room";

/** What was said, the newest at the end and in view, unless the reader has scrolled away. */
export function Transcript({ said }: { said: readonly Said[] }) {
  const box = useRef<HTMLElement>(null);
  const follows = useRef(true);
  useEffect(() => {
    const element = box.current;
    if (element && follows.current) element.scrollTop = element.scrollHeight;
  }, [said]);
  return (
    <section
      ref={box}
      className="transcript"
      aria-label="What was said"
      tabIndex={0}
      onScroll={({ currentTarget: { scrollHeight, scrollTop, clientHeight } }) => {
        follows.current = scrollHeight - scrollTop - clientHeight < 24;
      }}
    >
      <ol>
        {said.map(({ id, who, text, final }) => (
          <li key={id} data-who={who} data-final={final}>
            <span className="who">{who}</span>
            <bdi>{text}</bdi>
          </li>
        ))}
      </ol>
    </section>
  );
}
