/**
 * Takes a screenshot of each dashboard with headless Chromium.
 *
 * node build/tools/screenshots.js --prometheus=URL --out=FOLDER [--from=now-6h] [--to=now] [--only=NAME]
 * With --data=FOLDER instead of --prometheus, a copy of this data folder of Prometheus is served, and `now` is its newest
 * sample. Fails when a query fails, and lists the panels without data.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { type AddressInfo, createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, extname, join, normalize } from "node:path";
import { parseArgs } from "node:util";
import { type Browser, chromium } from "playwright-core";

const WIDTH = 1600;
const READY_MS = 60_000;
const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
};
const root = join(import.meta.dirname, "..");

interface Progress {
  done: boolean;
  errors: string[];
}

function portOf(server: { address(): AddressInfo | string | null }): number {
  return (server.address() as AddressInfo).port;
}

async function freePort(): Promise<number> {
  const socket = createSocket();
  await new Promise<void>((resolve) => socket.listen(0, "127.0.0.1", resolve));
  const port = portOf(socket);
  await new Promise((resolve) => socket.close(resolve));
  return port;
}

/** Serves the built page on a free port. */
async function page(): Promise<Server> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://page").pathname;
    const file = join(root, "page", normalize(path === "/" ? "/index.html" : path));
    if (!existsSync(file)) {
      response.writeHead(404).end();
      return;
    }
    response
      .writeHead(200, { "Content-Type": TYPES[extname(file)] ?? "application/octet-stream" })
      .end(readFileSync(file));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

interface Source {
  url: string;
  /** Seconds since 1970. */
  now: number;
  stop: () => Promise<void>;
}

async function json<T>(url: string): Promise<T> {
  const answer = await fetch(url);
  if (!answer.ok) {
    throw new Error(`${url}: expected status 200, got ${answer.status}`);
  }
  return (await answer.json()) as T;
}

async function ready(url: string, server: ChildProcess): Promise<void> {
  const deadline = Date.now() + READY_MS;
  while (Date.now() < deadline && server.exitCode === null) {
    const answer = await fetch(`${url}/-/ready`).catch(() => null);
    if (answer?.ok) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error("Prometheus did not start on the copy of the data folder");
}

/** A Prometheus that scrapes nothing, on a copy of a data folder. */
async function stored(data: string): Promise<Source> {
  const folder = mkdtempSync(join(tmpdir(), "dashboards-"));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  cpSync(data, join(folder, "data"), { recursive: true, filter: (path) => !path.endsWith("/lock") });
  writeFileSync(join(folder, "prometheus.yml"), "global: {}\n");
  const url = `http://127.0.0.1:${await freePort()}`;
  const flags = [
    `--config.file=${join(folder, "prometheus.yml")}`,
    `--storage.tsdb.path=${join(folder, "data")}`,
    "--storage.tsdb.retention.time=100y",
    `--web.listen-address=${new URL(url).host}`,
  ];
  const server = spawn("prometheus", flags, { stdio: "ignore" });
  const ended = new Promise((resolve) => server.once("close", resolve));
  const stop = async () => {
    server.kill();
    await ended;
    remove();
  };
  try {
    await ready(url, server);
    const status = await json<{ data: { headStats: { maxTime: number } } }>(`${url}/api/v1/status/tsdb`);
    return { url, now: Math.floor(status.data.headStats.maxTime / 1000), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Seconds since 1970 of `1790000000`, `now` or `now-90m`. */
function seconds(text: string, now: number): number {
  const found = /^now(?:-(\d+)([mhd]))?$/.exec(text);
  const unit: Record<string, number> = { m: 60, h: 3600, d: 86_400 };
  return found ? now - Number(found[1] ?? 0) * (unit[found[2] ?? ""] ?? 0) : Number(text);
}

async function browser(): Promise<Browser> {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const executablePath =
    process.env["CHROMIUM"] ?? folders.map((folder) => join(folder, "chromium")).find((path) => existsSync(path));
  if (!executablePath) {
    throw new Error("chromium is not installed (Debian: chromium); set CHROMIUM to its path");
  }
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

/** Takes one screenshot. Returns the errors of its queries. */
async function photograph(open: Browser, url: string, file: string): Promise<string[]> {
  const tab = await open.newPage({ viewport: { width: WIDTH, height: 1000 } });
  const errors: string[] = [];
  tab.on("pageerror", (error) => errors.push(error.message));
  await tab.goto(url);
  await tab.waitForFunction("window.progress.done", undefined, { timeout: READY_MS });
  await tab.waitForLoadState("networkidle");
  const progress = (await tab.evaluate("window.progress")) as Progress;
  const empty = await tab.locator("[data-panel]:has-text('No data')").evaluateAll((found) => {
    return found.map((element) => element.getAttribute("data-panel"));
  });
  await tab.screenshot({ path: file, fullPage: true });
  await tab.close();
  console.log(`${file}${empty.length > 0 ? `; without data: ${empty.join(", ")}` : ""}`);
  return [...errors, ...progress.errors];
}

const { values } = parseArgs({
  options: {
    prometheus: { type: "string" },
    data: { type: "string" },
    out: { type: "string" },
    from: { type: "string", default: "now-6h" },
    to: { type: "string", default: "now" },
    only: { type: "string" },
  },
});
if (!values.out || Boolean(values.prometheus) === Boolean(values.data)) {
  throw new Error("expected --out=FOLDER and either --prometheus=URL or --data=FOLDER");
}
const source: Source = values.data
  ? await stored(values.data)
  : { url: values.prometheus ?? "", now: Math.floor(Date.now() / 1000), stop: async () => {} };
const server = await page();
const open = await browser();
const errors: string[] = [];
try {
  mkdirSync(values.out, { recursive: true });
  const names = readdirSync(join(root, "../../dashboards")).map((file) => file.replace(/\.json$/, ""));
  for (const name of names.filter((each) => !values.only || each === values.only)) {
    const parameters = new URLSearchParams({
      dashboard: name,
      prometheus: source.url,
      from: `${seconds(values.from, source.now)}`,
      to: `${seconds(values.to, source.now)}`,
    });
    const url = `http://127.0.0.1:${portOf(server)}/?${parameters}`;
    errors.push(...(await photograph(open, url, join(values.out, `${name}.png`))));
  }
} finally {
  await open.close();
  server.close();
  await source.stop();
}
if (errors.length > 0) {
  console.error(errors.join("\n"));
  process.exitCode = 1;
}
