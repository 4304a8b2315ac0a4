/** A folder on a loopback port, and headless Chromium that can reach loopback only. */

import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { delimiter, extname, join } from "node:path";
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium } from "playwright-core";

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css",
  ".js": "text/javascript",
  ".json": "application/json",
  ".ts": "text/plain",
};

/** A plain file server on 127.0.0.1, as an export needs it. */
export interface FileServer {
  /** Ends with a slash. */
  url: string;
  /** Bytes of all answers. */
  sent: () => number;
  close: () => Promise<void>;
}

/** Serves the files of a folder. `changed` replaces the content of files. */
export async function serve(folder: string, changed: Readonly<Record<string, Uint8Array>> = {}): Promise<FileServer> {
  let sent = 0;
  const server = createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url ?? "/", "http://127.0.0.1").pathname.slice(1)) || "index.html";
    const content = name.includes("/")
      ? Promise.reject(new Error("no such file"))
      : Promise.resolve(changed[name] ?? readFile(join(folder, name)));
    content
      .then((data) => {
        sent += data.length;
        response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" });
        response.end(data);
      })
      .catch(() => {
        response.writeHead(404);
        response.end();
      });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    sent: () => sent,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** Path of Chromium: $CHROMIUM, else the one on PATH; null if there is none. */
export function chromiumPath(): string | null {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const found = folders.map((folder) => join(folder, "chromium")).find((path) => existsSync(path));
  return process.env["CHROMIUM"] ?? found ?? null;
}

/** Starts Chromium. Throws an Error where it is not installed. */
export async function launch(more: readonly string[] = []): Promise<Browser> {
  const executablePath = chromiumPath();
  if (executablePath === null) {
    throw new Error("chromium is not installed (Debian: chromium); set CHROMIUM to its path");
  }
  // --no-sandbox: Chromium's sandbox does not start for root. Only pages of loopback are loaded.
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage", ...more] });
}

/** The requests of a browser context: those to other hosts than loopback are aborted. */
export class Requests {
  loopback = 0;
  /** Addresses of the aborted requests. */
  readonly aborted: string[] = [];
}

/** A context of its own cache and storage. `loopback`: host names that this browser resolves to loopback. */
export async function isolated(
  browser: Browser,
  options: BrowserContextOptions = {},
  loopback: readonly string[] = [],
): Promise<{ context: BrowserContext; requests: Requests }> {
  const context = await browser.newContext(options);
  const requests = new Requests();
  await context.route("**/*", async (route) => {
    const { hostname, protocol } = new URL(route.request().url());
    if (["127.0.0.1", "localhost", "[::1]", ...loopback].includes(hostname) || ["data:", "blob:"].includes(protocol)) {
      requests.loopback++;
      await route.continue();
    } else {
      requests.aborted.push(route.request().url());
      await route.abort();
    }
  });
  return { context, requests };
}
