/**
 * The scorer and the page in headless Chromium: `FRAUD_EDGE_FOLDER=... node --test browser.chromium.mjs`.
 *
 * FRAUD_EDGE_FOLDER is an exported folder. FRAUD_EDGE_SERVING is the address of a server that has it under /what-if/.
 * tests/serving/test_edge_browser.py starts these tests.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import type { Answer, Daily, Load, Transaction } from "../src/public.ts";
import { isolated, launch, type Requests, serve } from "../tools/lib/browser.ts";

const FOLDER = process.env["FRAUD_EDGE_FOLDER"] ?? "";
const SERVING = process.env["FRAUD_EDGE_SERVING"] ?? "";
/** A host name that is loopback for this browser and no secure context: a page on plain http. */
const PLAIN_HOST = "what-if.test";
const READY = "#main:not([hidden])";
const REFUSED = "#refused:not([hidden])";

interface GoldenRow {
  transaction: Transaction;
  history: Transaction[] | null;
  daily: Daily | null;
  probability: number;
  is_fraud: boolean;
}

const golden = (JSON.parse(readFileSync(join(FOLDER, "golden.json"), "utf8")) as { rows: GoldenRow[] }).rows;
let browser: Browser;
const contexts: Requests[] = [];

before(async () => {
  browser = await launch([`--host-resolver-rules=MAP ${PLAIN_HOST} 127.0.0.1`]);
});

after(async () => {
  await browser.close();
});

/** Opens an address in a context of its own; the context is closed after `use`. */
async function opened(
  url: string,
  use: (page: Page, requests: Requests, violations: string[]) => Promise<void>,
  options: BrowserContextOptions = {},
): Promise<void> {
  const { context, requests } = await isolated(browser, options, [PLAIN_HOST]);
  contexts.push(requests);
  const violations: string[] = [];
  try {
    const page = await context.newPage();
    page.on("console", (message) => {
      if (message.type() === "error") {
        violations.push(message.text());
      }
    });
    page.on("pageerror", (error) => violations.push(error.message));
    await page.goto(url);
    await page.locator(`${READY}, ${REFUSED}`).first().waitFor();
    await use(page, requests, violations);
  } finally {
    await context.close();
  }
}

/** The same on a file server of the folder, with some files changed. */
async function onFileServer(
  use: (page: Page, requests: Requests, violations: string[]) => Promise<void>,
  changed: Record<string, Uint8Array> = {},
  options: BrowserContextOptions = {},
): Promise<void> {
  const server = await serve(FOLDER, changed);
  try {
    await opened(server.url, use, options);
  } finally {
    await server.close();
  }
}

function textOf(page: Page, selector: string): Promise<string> {
  return page
    .locator(selector)
    .allInnerTexts()
    .then((texts) => texts.join("\n"));
}

/** The content of a file with one byte changed in the middle. */
function flipped(name: string): Uint8Array {
  const data = new Uint8Array(readFileSync(join(FOLDER, name)));
  const middle = Math.floor(data.length / 2);
  data[middle] = (data[middle] ?? 0) ^ 1;
  return data;
}

test("golden payments are scored as the server's code scored them, in an untouched page", async () => {
  await onFileServer(async (page, _requests, violations) => {
    const answers = await page.evaluate(async (rows) => {
      const { load } = (await import(new URL("fraud-scorer.js", document.baseURI).href)) as { load: Load };
      const scorer = await load({ base: document.baseURI });
      return scorer.scoreMany(rows.map(({ transaction, history, daily }) => ({ transaction, history, daily })));
    }, golden);
    assert.deepEqual(
      answers.map((answer: Answer) => [answer.fraud_probability, answer.is_fraud]),
      golden.map((row) => [row.probability, row.is_fraud]),
    );
    assert.deepEqual(violations, []);
  });
});

for (const name of [
  "model.onnx",
  "ort-wasm-simd-threaded.wasm.packed",
  "serving.json",
  "version.json",
  "golden.json",
]) {
  test(`a changed ${name} is refused before use, with a message`, async () => {
    await onFileServer(
      async (page) => {
        assert.match(await textOf(page, REFUSED), new RegExp(`The model is not used\\. ${name}: expected sha256`));
        assert.equal(await page.locator(READY).count(), 0);
      },
      { [name]: flipped(name) },
    );
  });
}

test("a folder without one of its files is refused, naming the file", async () => {
  const manifest = JSON.parse(readFileSync(join(FOLDER, "manifest.json"), "utf8")) as {
    files: Record<string, unknown>;
  };
  delete manifest.files["model.onnx"];
  await onFileServer(
    async (page) => assert.match(await textOf(page, REFUSED), /model\.onnx: expected sha256 \(not in manifest\.json\)/),
    { "manifest.json": new TextEncoder().encode(JSON.stringify(manifest)) },
  );
});

test("golden rows that this browser does not compute are refused although every sha256 agrees", async () => {
  const changed = JSON.parse(readFileSync(join(FOLDER, "golden.json"), "utf8")) as { rows: GoldenRow[] };
  const [first] = changed.rows;
  assert.ok(first);
  first.probability = 1 - first.probability;
  const data = new TextEncoder().encode(JSON.stringify(changed));
  const { createHash } = await import("node:crypto");
  const manifest = JSON.parse(readFileSync(join(FOLDER, "manifest.json"), "utf8")) as { files: Record<string, object> };
  manifest.files["golden.json"] = { sha256: createHash("sha256").update(data).digest("hex"), bytes: data.length };
  await onFileServer(
    async (page) => assert.match(await textOf(page, REFUSED), /golden\.json: row 0: expected probability/),
    { "golden.json": data, "manifest.json": new TextEncoder().encode(JSON.stringify(manifest)) },
  );
});

test("another export than the pinned one is refused", async () => {
  await onFileServer(async (page) => {
    const message = await page.evaluate(async () => {
      const { load } = (await import(new URL("fraud-scorer.js", document.baseURI).href)) as { load: Load };
      const pinned = { base: document.baseURI, manifestSha256: "0".repeat(64) };
      return load(pinned).then(
        () => "loaded",
        (error: Error) => error.message,
      );
    });
    assert.match(message, /^manifest\.json: expected sha256 0{64}/);
  });
});

test("on plain http, without crypto.subtle, the same is verified", async () => {
  const server = await serve(FOLDER);
  const changed = await serve(FOLDER, { "model.onnx": flipped("model.onnx") });
  const plain = (url: string) => url.replace("127.0.0.1", PLAIN_HOST);
  try {
    await opened(plain(server.url), async (page) => {
      assert.equal(await page.evaluate(() => globalThis.isSecureContext), false);
      assert.equal(await page.locator(READY).count(), 1);
    });
    await opened(plain(changed.url), async (page) =>
      assert.match(await textOf(page, REFUSED), /model\.onnx: expected/),
    );
  } finally {
    await server.close();
    await changed.close();
  }
});

test("the Content-Security-Policy stops inline scripts, evaluated text and requests to other hosts", async () => {
  await onFileServer(async (page, requests) => {
    const stopped = await page.evaluate(async () => {
      const found: string[] = [];
      document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
      const script = document.createElement("script");
      script.textContent = "globalThis.inline = true";
      document.body.append(script);
      const styled = document.createElement("p");
      styled.setAttribute("style", "color: red");
      document.body.append(styled);
      await fetch("https://example.org/").catch(() => null);
      const image = new Image();
      image.src = "https://example.org/i.png";
      await new Promise((resolve) => image.addEventListener("error", resolve));
      // In a task of its own: the browser lets the test's own scripts evaluate text.
      const evaluated = await new Promise((resolve) =>
        setTimeout(() => {
          try {
            resolve(new Function("return true")());
          } catch {
            resolve(false);
          }
        }),
      );
      const ran = "inline" in globalThis || evaluated;
      // The event of the evaluated text (script-src) may come later; `ran` has its effect.
      return { found: [...new Set(found)].filter((directive) => directive !== "script-src").sort(), ran };
    });
    assert.deepEqual(stopped, {
      found: ["connect-src", "img-src", "script-src-elem", "style-src-attr"],
      ran: false,
    });
    assert.deepEqual(requests.aborted, []); // the policy stopped them before they were requests
  });
});

test("a change of a control changes probability, reasons and curves at once", async () => {
  await onFileServer(async (page) => {
    const shown = () => textOf(page, "#exact");
    const first = await shown();
    await page.locator("input[name=amount]").fill("9.5");
    await page.locator("#exact").filter({ hasNotText: first }).waitFor();
    const second = await shown();
    const payment = JSON.parse(await page.locator("#payment").inputValue()) as Transaction;
    assert.equal(payment.amount, 9.5);
    const own = await page.evaluate(async (transaction) => {
      const { load } = (await import(new URL("fraud-scorer.js", document.baseURI).href)) as { load: Load };
      return (await load({ base: document.baseURI })).score(transaction, []);
    }, payment);
    assert.equal(second, String(own.fraud_probability));
    await page.locator("#by-hour rect[data-value='20']").click();
    await page.locator("output").filter({ hasText: "20:00" }).waitFor();
    assert.ok((await page.locator("#reasons li").count()) > 0);
  });
});

test("a pasted payment and history are scored; an invalid one is named and the old score is not shown as its own", async () => {
  await onFileServer(async (page) => {
    await page.locator("summary", { hasText: "As JSON" }).click();
    const last = golden.at(-1);
    assert.ok(last);
    await page.locator("#history").fill(JSON.stringify(last.history));
    await page.locator("#payment").fill(JSON.stringify(last.transaction));
    await page
      .locator("#exact")
      .filter({ hasText: String(last.probability) })
      .waitFor();
    assert.match(await textOf(page, "#history-count"), /8 payments/);
    await page.locator("#payment").fill(JSON.stringify({ ...last.transaction, amount: -1 }));
    await page.locator("#fault").filter({ hasText: "amount: Expected `float`" }).waitFor();
    assert.equal(await page.locator("input[name=amount]").getAttribute("aria-invalid"), "true");
    assert.ok((await page.locator("#result").getAttribute("class"))?.includes("stale"));
    await page.locator("#payment").fill("{");
    await page.locator("#fault").filter({ hasText: "expected a JSON object" }).waitFor();
  });
});

test("on a phone nothing is wider than the screen", async () => {
  const phone = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
  await onFileServer(
    async (page) => {
      await page.locator("#example-history").click();
      await page.locator("#history-count").filter({ hasText: "8 payments" }).waitFor();
      await page.locator("#features-card summary").click();
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360);
    },
    {},
    phone,
  );
});

test("under /what-if/ the page compares with the server's answer, alone and with ids", {
  skip: SERVING === "",
}, async () => {
  await opened(`${SERVING}/what-if`, async (page, _requests, violations) => {
    await page.locator("#server-state").filter({ hasText: "The server serves the same model" }).waitFor();
    await page.locator("#compare").click();
    await page.locator("#comparison .equal").waitFor();
    const last = golden.at(-1);
    assert.ok(last);
    await page.locator("summary", { hasText: "As JSON" }).click();
    await page.locator("#history").fill(JSON.stringify(last.history));
    await page.locator("#payment").fill(JSON.stringify(last.transaction));
    await page.locator("#with-ids").check();
    await page
      .locator("#exact")
      .filter({ hasText: String(last.probability) })
      .waitFor();
    await page.locator("#compare").click();
    await page.locator("#comparison .equal").waitFor();
    assert.match(await textOf(page, "#comparison"), /history\s+store\s+store/);
    assert.deepEqual(violations, []);
  });
});

test("the reasons are those of the server", { skip: SERVING === "" }, async () => {
  await opened(`${SERVING}/what-if`, async (page) => {
    const payments: Transaction[] = [2_000, 4.5, 12_000].map((amount, i) => ({
      amount,
      hour_of_day: 3 + i,
      day_of_week: 6 - i,
      transaction_velocity: 7 * i,
    }));
    const found = await page.evaluate(async (rows) => {
      const { load } = (await import(new URL("fraud-scorer.js", document.baseURI).href)) as { load: Load };
      const scorer = await load({ base: document.baseURI });
      const server: unknown[] = [];
      const own: unknown[] = [];
      for (const row of rows) {
        const headers = { "content-type": "application/json" };
        const response = await fetch("../predict?explain=true", { method: "POST", headers, body: JSON.stringify(row) });
        const { prediction_id: _, ...answer } = (await response.json()) as Answer & { prediction_id: string };
        server.push(answer);
        own.push(await scorer.score(row, null, null, { explain: true }));
      }
      return { server, own };
    }, payments);
    assert.deepEqual(found.own, found.server);
  });
});

test("no page made a request beyond loopback", () => {
  assert.ok(contexts.length > 10);
  assert.deepEqual(
    contexts.flatMap((requests) => requests.aborted),
    [],
  );
});
