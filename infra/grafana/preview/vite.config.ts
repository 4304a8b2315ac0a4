import { cpSync } from "node:fs";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** Grafana's components load their icons from this path below the page. */
function icons(): Plugin {
  const path = "img/icons";
  return {
    name: "icons",
    apply: (_, { isSsrBuild }) => !isSsrBuild,
    closeBundle: () =>
      cpSync(`node_modules/@grafana/ui/dist/public/${path}`, `build/page/public/build/${path}`, { recursive: true }),
  };
}

// `vite build` writes the page, `vite build --ssr tools/screenshots.ts` the program that takes the screenshots.
export default defineConfig(({ isSsrBuild }) => ({
  base: "./",
  plugins: [react(), icons()],
  build: { outDir: isSsrBuild ? "build/tools" : "build/page", chunkSizeWarningLimit: 20_000 },
}));
