/** Comparison with the server's answer: live where the page is served by serving (/what-if/), else a pasted answer. */

import type { Answer, Daily, Scorer, Transaction } from "../src/public.ts";
import { byId, element, show } from "./dom.ts";

interface Lineage {
  model_version: string;
  model_sha256: string | null;
  feature_hash: string | null;
}

/** Where serving has the page. Other servers are not asked for GET /model. */
const SERVED = /\/what-if\/(?:index\.html)?$/;

/** What the page shows. */
export interface Shown {
  payment: Transaction;
  history: readonly Transaction[] | null;
  daily: Daily | null;
}

/** The panel. */
export class Comparison {
  private readonly state = byId("server-state", HTMLElement);
  private readonly live = byId("server-live", HTMLElement);
  private readonly paste = byId("server-paste", HTMLElement);
  private readonly key = byId("api-key", HTMLInputElement);
  private readonly withIds = byId("with-ids", HTMLInputElement);
  private readonly out = byId("comparison", HTMLElement);
  private readonly pasted = byId("server-answer", HTMLTextAreaElement);

  constructor(
    private readonly scorer: Scorer,
    private readonly shown: () => Shown | null,
  ) {
    byId("compare", HTMLButtonElement).addEventListener("click", () => void this.compareLive());
    this.key.addEventListener("change", () => void this.readLineage());
    this.pasted.addEventListener("input", () => void this.comparePasted());
  }

  /** Removes a comparison that no longer belongs to the payment. */
  clear(): void {
    this.out.replaceChildren();
    if (this.pasted.value !== "") {
      void this.comparePasted();
    }
  }

  /** Reads GET /model of the server that serves the page. */
  async readLineage(): Promise<void> {
    const found = SERVED.test(location.pathname) ? await this.request("../model") : null;
    const isServer = found?.status === 401 || (found !== null && isLineage(found.body));
    this.live.hidden = !isServer;
    this.paste.hidden = isServer;
    if (!isServer) {
      show(
        this.state,
        "This page is not served by the scoring service (/what-if), so it cannot ask it. Send the payment with " +
          "POST /predict and paste the answer.",
      );
      return;
    }
    if (found.status === 401) {
      show(this.state, "The server requires an API key.");
      return;
    }
    const server = found.body as Lineage;
    const same = server.model_version === this.scorer.modelVersion && server.model_sha256 === this.scorer.modelSha256;
    const own = `version ${this.scorer.modelVersion}`;
    show(
      this.state,
      same
        ? `The server serves the same model: ${own}, sha256 ${this.scorer.modelSha256.slice(0, 12)}.`
        : `The server serves another model: version ${server.model_version}, sha256 ` +
            `${server.model_sha256?.slice(0, 12) ?? "none"}; this page has ${own}, sha256 ${this.scorer.modelSha256.slice(0, 12)}.`,
    );
  }

  private async compareLive(): Promise<void> {
    const shown = this.shown();
    if (shown === null) {
      return;
    }
    await this.readLineage();
    const ids = this.withIds.checked;
    const payment = ids ? shown.payment : this.alone(shown.payment);
    const found = await this.request("../predict", JSON.stringify(payment));
    if (found?.status !== 200) {
      const reason = (found?.body as { reason?: string } | undefined)?.reason ?? "no answer";
      this.out.replaceChildren(
        element("p", { class: "fault" }, `The server refused the payment: ${found?.status ?? ""} ${reason}`),
      );
      return;
    }
    const own = await this.scorer.score(payment, ids ? shown.history : [], shown.daily);
    this.show(own, found.body as Answer);
  }

  private async comparePasted(): Promise<void> {
    const shown = this.shown();
    if (this.pasted.value.trim() === "" || shown === null) {
      this.out.replaceChildren();
      return;
    }
    try {
      const answer = JSON.parse(this.pasted.value) as Answer;
      this.show(await this.scorer.score(shown.payment, shown.history, shown.daily), answer);
    } catch (error) {
      this.out.replaceChildren(element("p", { class: "fault" }, `Not an answer: ${(error as Error).message}`));
    }
  }

  /** The payment without ids: the server then reads and writes no history. */
  private alone(payment: Transaction): Transaction {
    const ids = Object.entries(this.scorer.columns).filter(([, column]) => column.type === "id");
    const left = Object.entries(payment).filter(
      ([name]) => name !== "transaction_id" && !ids.some(([id]) => id === name),
    );
    return Object.fromEntries(left) as Transaction;
  }

  private show(own: Answer, server: Answer): void {
    const rows: [string, unknown, unknown][] = [
      ["probability", own.fraud_probability, server.fraud_probability],
      ["is_fraud", own.is_fraud, server.is_fraud],
      ["threshold", own.threshold, server.threshold],
      ["version", own.model_version, server.model_version],
      ["history", own.history, server.history],
    ];
    const differing = rows.slice(0, 4).filter(([, a, b]) => !Object.is(a, b));
    const equal = differing.length === 0;
    const verdict = equal
      ? element("p", { class: "equal" }, "Equal, bit for bit.")
      : element("p", { class: "unequal" }, `Different: ${differing.map(([name]) => name).join(", ")}.`);
    const hint =
      equal || own.history !== "store"
        ? ""
        : "The server scored with its own stored history, which may differ from the one here.";
    const head = element("tr", {}, element("th", {}, ""), element("th", {}, "this page"), element("th", {}, "server"));
    const table = element(
      "table",
      {},
      head,
      ...rows.map(([name, a, b]) =>
        element("tr", {}, element("td", {}, name), element("td", {}, String(a)), element("td", {}, String(b))),
      ),
    );
    this.out.replaceChildren(verdict, table, element("p", { class: "hint" }, hint));
  }

  /** Status and JSON body; null if there is no such answer. */
  private async request(path: string, body?: string): Promise<{ status: number; body: unknown } | null> {
    const headers: Record<string, string> = body === undefined ? {} : { "content-type": "application/json" };
    if (this.key.value !== "") {
      headers["x-api-key"] = this.key.value;
    }
    try {
      const method = body === undefined ? "GET" : "POST";
      const response = await fetch(new URL(path, document.baseURI), {
        method,
        headers,
        ...(body === undefined ? {} : { body }),
      });
      return { status: response.status, body: (await response.json()) as unknown };
    } catch {
      return null;
    }
  }
}

function isLineage(body: unknown): body is Lineage {
  return typeof body === "object" && body !== null && "model_version" in body;
}
