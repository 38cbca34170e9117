import { createRoot } from "react-dom/client";

import { api } from "./api";
import { App } from "./App";
import { Caller } from "./caller";
import "./style.css";

const media = () => import("./room");
const caller = new Caller(api, media);
addEventListener("pagehide", caller.leave);
void caller.recall();

createRoot(document.getElementById("root")!).render(<App caller={caller} />);
// Loaded now, so that the press of the button does not wait for it; when that fails the press tries again.
Promise.all([media(), import("./InCall")]).catch(() => undefined);
