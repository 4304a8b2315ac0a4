// Builds dist/web (what an export contains), dist/tools (run with node) and build/test (the tests). `node build.mjs`
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
process.chdir(here);
const runtime = "node_modules/onnxruntime-web";
// Modules that ONNX Runtime Web and the scorer import in Node only.
const external = ["node:*", "module", "worker_threads", "playwright-core"];
const common = { bundle: true, format: "esm", target: "es2022", legalComments: "none", logLevel: "warning", external };

/** The sources of a folder, by name without ending. */
function entries(folder, ending) {
  const names = readdirSync(folder).filter((name) => name.endsWith(ending));
  return Object.fromEntries(names.map((name) => [name.slice(0, -3), join(folder, name)]));
}

for (const folder of ["dist", "build"]) {
  rmSync(folder, { recursive: true, force: true });
}
mkdirSync("dist/web", { recursive: true });
await build({ ...common, entryPoints: { "fraud-scorer": "src/index.ts" }, outdir: "dist/web", minify: true });
await build({
  ...common,
  entryPoints: { page: "page/page.ts" },
  outdir: "dist/web",
  minify: true,
  external: ["./fraud-scorer.js"],
});
cpSync("page/index.html", "dist/web/index.html");
cpSync("page/page.css", "dist/web/page.css");

execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "--project", "tsconfig.types.json"], {
  stdio: "inherit",
});
const types = readFileSync("build/types/public.d.ts", "utf8").replace("export type Load =", "type Load =");
writeFileSync("dist/web/fraud-scorer.d.ts", `${types}export declare const load: Load;\n`);

const wasm = readFileSync(`${runtime}/dist/ort-wasm-simd-threaded.wasm`);
writeFileSync("dist/web/ort-wasm-simd-threaded.wasm.packed", gzipSync(wasm, { level: 9 }));
const version = JSON.parse(readFileSync(`${runtime}/package.json`, "utf8")).version;
const licence = readFileSync("onnxruntime-licence.txt", "utf8");
writeFileSync(
  "dist/web/licences.txt",
  `fraud-scorer.js and ort-wasm-simd-threaded.wasm.packed contain ONNX Runtime Web ${version}.\n\n${licence}`,
);

await build({
  ...common,
  entryPoints: entries("tools", ".ts"),
  outdir: "dist/tools",
  outExtension: { ".js": ".mjs" },
  platform: "node",
});
await build({
  ...common,
  entryPoints: { ...entries("test", ".test.ts"), ...entries("test", ".chromium.ts") },
  outdir: "build/test",
  outExtension: { ".js": ".mjs" },
  platform: "node",
});
