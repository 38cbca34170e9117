import type { ReactNode } from "react";

function Icon({ children }: { children: ReactNode }) {
  return (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true">
      {children}
    </svg>
  );
}

export const MicrophoneIcon = () => (
  <Icon>
    <rect x="9" y="3" width="6" height="11" rx="3" />
    <path d="M5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3" />
  </Icon>
);

export const MutedIcon = () => (
  <Icon>
    <path d="M9 6.5V6a3 3 0 0 1 6 0v5M15 13.2A3 3 0 0 1 9 11V9.5M5.5 11.5a6.5 6.5 0 0 0 10.6 5M18.5 11.5a6.4 6.4 0 0 1-.6 2.7M12 18v3M4 3l16 18" />
  </Icon>
);

export const HangUpIcon = () => (
  <Icon>
    <path d="M3.5 14.5c-.9-1-.9-2.600 0-3.500 4.700-4.700 12.300-4.700 17 0 .9.9.9 2.500 0 3.500l-.8.8c-.4.4-1 .5-1.500.2l-2.600-1.500a1.200 1.200 0 0 1-.6-1.100v-1.600a11 11 0 0 0-6 0v1.600c0 .5-.2.900-.6 1.100l-2.600 1.500c-.5.3-1.100.2-1.500-.2z" />
  </Icon>
);

export const DevicesIcon = () => (
  <Icon>
    <path d="M4 7h9M17 7h3M4 12h3M11 12h9M4 17h9M17 17h3" />
    <circle cx="15" cy="7" r="2" />
    <circle cx="9" cy="12" r="2" />
    <circle cx="15" cy="17" r="2" />
  </Icon>
);
