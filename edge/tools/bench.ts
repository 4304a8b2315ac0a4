/**
 * Scores rows in headless Chromium with an exported folder: `node bench.mjs FOLDER ROWS.jsonl OUT.jsonl`.
 *
 * A row of ROWS.jsonl is {"transaction", "history": list or null, "daily": object or null}. A row of OUT.jsonl is
 * {"probability", "is_fraud", "features": base values by name, "vector": hex of float32} or {"error"}. Standard output is
 * one JSON object with times (ms), bytes and requests. Exit code 1 and a message if the folder is refused.
 */

import { createReadStream, createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
import type { Page } from "playwright-core";
import type { load as loadFolder } from "../src/index.ts";
import type { Row, Scorer } from "../src/public.ts";
import { isolated, launch, serve } from "./lib/browser.ts";

const FRESH_CONTEXTS = 5;
const CHUNK = 500;
const CALLS = 1_000;
const ROUNDS = 20;

interface Scored {
  probability: number;
  is_fraud: boolean;
  features: Record<string, number | null>;
  vector: string;
}

type Window = typeof globalThis & { scorer: Scorer };

/** Runs in the page: loads the scorer once more for the measurements, in the page's own module. */
async function loadInPage(): Promise<void> {
  const module = "./fraud-scorer.js";
  const { load } = (await import(new URL(module, document.baseURI).href)) as { load: typeof loadFolder };
  (globalThis as Window).scorer = await load({ base: document.baseURI });
}

/** Runs in the page. */
async function scoreInPage(rows: Row[]): Promise<(Scored | { error: string })[]> {
  const { scorer } = globalThis as Window;
  const found: (Scored | { error: string })[] = [];
  for (const { transaction, history, daily } of rows) {
    try {
      const answer = await scorer.score(transaction, history, daily);
      const { values, vector } = scorer.features({ transaction, history, daily });
      const bytes = new Uint8Array(vector.buffer);
      const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
      found.push({ probability: answer.fraud_probability, is_fraud: answer.is_fraud, features: values, vector: hex });
    } catch (error) {
      found.push({ error: (error as Error).message });
    }
  }
  return found;
}

/** Runs in the page: times of single calls, of calls with all rows (histories prepared or not), and with reasons. */
async function measureInPage([rows, calls, rounds]: [Row[], number, number]): Promise<Record<string, number[]>> {
  const { scorer } = globalThis as Window;
  const timed = async (run: (i: number) => Promise<unknown>, times: number): Promise<number[]> => {
    const found: number[] = [];
    for (let i = 0; i < times; i++) {
      const start = performance.now();
      await run(i);
      found.push(performance.now() - start);
    }
    return found;
  };
  const row = (i: number) => rows[i % rows.length] as Row;
  const prepared = rows.map(({ transaction, history, daily }) => ({
    transaction,
    daily,
    history: history ? scorer.history(history as never) : history,
  }));
  await timed((i) => scorer.score(row(i).transaction, row(i).history, row(i).daily), 50);
  return {
    one: await timed((i) => scorer.score(row(i).transaction, row(i).history, row(i).daily), calls),
    thousand: await timed(() => scorer.scoreMany(prepared), rounds),
    thousand_unprepared: await timed(() => scorer.scoreMany(rows), rounds),
    explain: await timed(
      (i) => scorer.score(row(i).transaction, row(i).history, row(i).daily, { explain: true }),
      rounds,
    ),
  };
}

function percentiles(values: readonly number[]): { p50: number; p99: number } {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99) };
}

/** Opens the page and waits until the scorer is ready. Returns the time since the navigation (ms). */
async function ready(page: Page, url: string): Promise<number> {
  await page.goto(url);
  const shown = page.locator("#main:not([hidden]), #refused:not([hidden])").first();
  await shown.waitFor();
  if ((await shown.getAttribute("id")) === "refused") {
    throw new Error((await shown.textContent()) ?? "refused");
  }
  return page.evaluate(() => performance.getEntriesByName("ready")[0]?.startTime ?? Number.NaN);
}

async function main([folder, rowsPath, outPath]: string[]): Promise<void> {
  if (folder === undefined || rowsPath === undefined || outPath === undefined) {
    throw new Error("usage: bench.mjs FOLDER ROWS.jsonl OUT.jsonl");
  }
  const server = await serve(folder);
  const browser = await launch();
  try {
    const readyMs: number[] = [];
    let aborted = 0;
    for (let i = 0; i < FRESH_CONTEXTS; i++) {
      const { context, requests } = await isolated(browser);
      readyMs.push(await ready(await context.newPage(), server.url));
      aborted += requests.aborted.length;
      await context.close();
    }
    const { context, requests } = await isolated(browser);
    const before = server.sent();
    const page = await context.newPage();
    await ready(page, server.url);
    const [downloadBytes, loopback] = [server.sent() - before, requests.loopback];
    await page.evaluate(loadInPage);
    const out = createWriteStream(outPath);
    const first: Row[] = [];
    let chunk: Row[] = [];
    const flush = async () => {
      const found = await page.evaluate(scoreInPage, chunk);
      out.write(found.map((row) => `${JSON.stringify(row)}\n`).join(""));
      chunk = [];
    };
    let count = 0;
    for await (const line of createInterface({ input: createReadStream(rowsPath) })) {
      const row = JSON.parse(line) as Row;
      count++;
      chunk.push(row);
      if (first.length < 1_000) {
        first.push(row);
      }
      if (chunk.length === CHUNK) {
        await flush();
      }
    }
    await flush();
    await new Promise<void>((resolve) => out.end(resolve));
    const measured = await page.evaluate(measureInPage, [first, CALLS, ROUNDS] as [Row[], number, number]);
    const report = {
      rows: count,
      ready_ms: readyMs,
      one_ms: percentiles(measured["one"] ?? []),
      thousand_rows: first.length,
      thousand_ms: percentiles(measured["thousand"] ?? []),
      thousand_unprepared_ms: percentiles(measured["thousand_unprepared"] ?? []),
      explain_ms: percentiles(measured["explain"] ?? []),
      download_bytes: downloadBytes,
      requests: loopback,
      refused_requests: aborted + requests.aborted.length,
      chromium: browser.version(),
    };
    console.log(JSON.stringify(report));
  } finally {
    await browser.close();
    await server.close();
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error((error as Error).message);
  process.exit(1);
});
