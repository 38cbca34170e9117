import react from "@vitejs/plugin-react";
import { defineConfig, loadEnv } from "vite";

export default defineConfig(({ mode }) => {
  // `npm run dev` serves the page with hot reload and takes the api from a node that runs.
  const { ORCHESTRATOR_URL = "http://127.0.0.1:8080" } = loadEnv(mode, ".", "ORCHESTRATOR_");
  return {
    plugins: [react()],
    // Relative addresses: the page may be served below a path.
    base: "./",
    // The operator's page is served without a build, so what both pages use is there.
    resolve: { alias: { "@orchestrator/sse": decodeURIComponent(new URL("../orchestrator/web/sse.js", import.meta.url).pathname) } },
    server: { host: "127.0.0.1", port: 5173, proxy: { "/api": ORCHESTRATOR_URL }, fs: { allow: [".", "../orchestrator/web"] } },
    build: {
      target: "es2022",
      // Nothing inline: the page is served with a strict content security policy.
      assetsInlineLimit: 0,
      modulePreload: { polyfill: false },
      // LiveKit's client, which is a file of its own and is loaded while the user reads.
      chunkSizeWarningLimit: 560,
    },
  };
});
