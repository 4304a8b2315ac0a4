/** The what-if page: shows the score of a payment and its reasons while it is changed. */

import type { Answer, Daily, Scorer, Transaction } from "../src/public.ts";
import { Comparison, type Shown } from "./compare.ts";
import { atHour, Controls, hourOf } from "./controls.ts";
import { byId, element, show } from "./dom.ts";
import { bars, gauge, part } from "./drawing.ts";
import * as examples from "./examples.ts";

const HOURS = Array.from({ length: 24 }, (_, hour) => hour);
const AMOUNTS = [1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000];

/** The page of a loaded model. */
class Page {
  private payment: Transaction = { amount: 1 };
  private history: readonly Transaction[] = [];
  private daily: Daily | null = null;
  private readonly controls: Controls;
  private readonly comparison: Comparison;
  private readonly paymentText = byId("payment", HTMLTextAreaElement);
  private readonly historyText = byId("history", HTMLTextAreaElement);
  private readonly dailyText = byId("daily", HTMLTextAreaElement);
  private readonly result = byId("result", HTMLElement);
  private readonly fault = byId("fault", HTMLElement);
  private pending = false;
  private running = false;
  /** Whether the payment was scored as it is. */
  private valid = false;

  constructor(private readonly scorer: Scorer) {
    const change = (changes: Partial<Transaction>) => this.change(changes);
    this.controls = new Controls(scorer, byId("controls", HTMLElement), byId("id-controls", HTMLElement), change);
    this.comparison = new Comparison(scorer, () => this.shown());
    this.paymentText.addEventListener("input", () => this.readPaymentText());
    this.historyText.addEventListener("input", () => this.readHistoryText());
    this.dailyText.addEventListener("input", () => this.readDailyText());
    byId("history-clear", HTMLButtonElement).addEventListener("click", () => this.setHistory([]));
    byId("history-file", HTMLInputElement).addEventListener("change", (event) => void this.readFile(event));
    byId("example-short", HTMLButtonElement).addEventListener("click", () => this.set(examples.short(scorer), []));
    byId("example-history", HTMLButtonElement).addEventListener("click", () =>
      this.set(...examples.withHistory(scorer)),
    );
    const features = Object.entries(scorer.dailyFeatures);
    byId("daily-card", HTMLElement).hidden = features.length === 0;
    const template = Object.fromEntries(
      features.map(([entity, names]) => [entity, Object.fromEntries(names.map((n) => [n, 0]))]),
    );
    this.dailyText.placeholder = JSON.stringify(template, null, 1);
    show(byId("threshold", HTMLElement), `threshold ${scorer.threshold}`);
    show(byId("version", HTMLElement), `version ${scorer.modelVersion}, ${scorer.level}, verified`);
    show(
      byId("footer", HTMLElement),
      `model sha256 ${scorer.modelSha256} · export sha256 ${scorer.manifestSha256} · features ${scorer.featureHash.slice(0, 12)} · ` +
        "everything is computed in this browser",
    );
    byId("main", HTMLElement).hidden = false;
    performance.mark("ready");
    this.set(examples.short(scorer), []);
    void this.comparison.readLineage();
  }

  private shown(): Shown | null {
    return this.valid ? { payment: this.payment, history: this.history, daily: this.daily } : null;
  }

  private change(changes: Partial<Transaction>): void {
    const changed = { ...this.payment, ...changes };
    const left = Object.entries(changed).filter(([, value]) => value !== null && value !== undefined);
    this.payment = Object.fromEntries(left) as Transaction;
    this.paymentText.value = JSON.stringify(this.payment, null, 1);
    this.refresh();
  }

  private set(payment: Transaction, history: readonly Transaction[]): void {
    this.setHistory(history);
    this.payment = { amount: payment.amount };
    this.change(payment);
    byId("ids", HTMLDetailsElement).open = payment.user_id !== undefined;
  }

  private readPaymentText(): void {
    const found = parsed(this.paymentText.value);
    if (!isObject(found)) {
      this.valid = false;
      this.refuse(`payment: expected a JSON object${found instanceof Error ? `: ${found.message}` : ""}`, "");
      return;
    }
    this.payment = found as Transaction;
    this.refresh();
  }

  private setHistory(history: readonly Transaction[]): void {
    this.historyText.value =
      history.length === 0 ? "" : `[\n${history.map((row) => JSON.stringify(row)).join(",\n")}\n]`;
    this.readHistoryText();
  }

  /** A JSON list, or one payment per line. */
  private readHistoryText(): void {
    const written = this.historyText.value.trim();
    const whole = written === "" ? [] : parsed(written);
    const lines = written
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map(parsed);
    const found = Array.isArray(whole) ? whole : lines.some((line) => line instanceof Error) ? null : lines;
    show(
      byId("history-fault", HTMLElement),
      found === null ? "Expected a JSON list of payments, or one payment per line." : "",
    );
    this.history = (found ?? []) as Transaction[];
    show(byId("history-count", HTMLElement), this.history.length === 0 ? "none" : `${this.history.length} payments`);
    this.refresh();
  }

  private async readFile(event: Event): Promise<void> {
    const file = (event.target as HTMLInputElement).files?.[0];
    if (file !== undefined) {
      this.historyText.value = await file.text();
      this.readHistoryText();
    }
  }

  private readDailyText(): void {
    const written = this.dailyText.value.trim();
    const found = written === "" ? null : parsed(written);
    const valid = found === null || isObject(found);
    show(byId("daily-fault", HTMLElement), valid ? "" : "Expected a JSON object: entity, feature, number or null.");
    this.daily = valid ? (found as Daily | null) : null;
    this.refresh();
  }

  /** Scores the payment before the next frame; changes in the meantime are scored once. */
  private refresh(): void {
    this.pending = true;
    if (!this.running) {
      this.running = true;
      requestAnimationFrame(() => void this.score());
    }
  }

  private async score(): Promise<void> {
    while (this.pending) {
      this.pending = false;
      await this.scoreOnce();
    }
    this.running = false;
  }

  private async scoreOnce(): Promise<void> {
    const { payment, history, daily } = this;
    this.controls.read(payment);
    try {
      const answer = await this.scorer.score(payment, history, daily, { explain: true });
      this.valid = true;
      this.controls.mark("");
      this.showAnswer(answer);
      this.showFeatures(payment);
      await this.showCurves(payment);
      this.comparison.clear();
    } catch (error) {
      this.valid = false;
      this.refuse((error as Error).message, String((error as { field?: string }).field ?? ""));
    }
  }

  private refuse(message: string, field: string): void {
    this.result.classList.add("stale");
    show(this.fault, message);
    this.controls.mark(field);
  }

  private showAnswer(answer: Answer): void {
    const { fraud_probability: probability, is_fraud: isFraud, threshold } = answer;
    this.result.classList.remove("stale");
    show(this.fault, "");
    show(byId("probability", HTMLElement), percent(probability));
    show(byId("exact", HTMLElement), String(probability));
    const verdict = byId("verdict", HTMLElement);
    show(verdict, isFraud ? "Fraud" : "Legitimate");
    verdict.className = `verdict ${isFraud ? "fraud" : "legitimate"}`;
    byId("gauge", HTMLElement).replaceChildren(gauge(probability, threshold));
    const sources = { store: "with the history", request: "velocity from the payment", none: "without a history" };
    show(byId("source", HTMLElement), `${sources[answer.history]}${answer.repeated ? ", which has this payment" : ""}`);
    const reasons = answer.reasons ?? [];
    const most = Math.max(...reasons.map((reason) => Math.abs(reason.contribution)), 1e-9);
    byId("reasons", HTMLElement).replaceChildren(
      ...reasons.map(({ code, contribution, values, ordinary }) => {
        const sign = contribution > 0 ? "+" : "";
        const described = Object.entries(values).map(
          ([name, value]) => `${name} ${shortly(value)} (ordinary ${shortly(ordinary[name])})`,
        );
        return element(
          "li",
          {},
          element(
            "div",
            { class: "head" },
            element("b", {}, code),
            element(
              "span",
              { class: `part ${contribution > 0 ? "more" : "less"}` },
              `${sign}${contribution.toFixed(4)}`,
            ),
          ),
          part(contribution / most),
          element("p", { class: "values" }, described.join(" · ")),
        );
      }),
    );
  }

  private showFeatures(payment: Transaction): void {
    const { values } = this.scorer.features({ transaction: payment, history: this.history, daily: this.daily });
    const rows = Object.entries(values).map(([name, value]) =>
      element("tr", {}, element("td", {}, name), element("td", {}, value === null ? "null" : String(value))),
    );
    byId("features", HTMLTableElement).tBodies[0]?.replaceChildren(...rows);
  }

  private async showCurves(payment: Transaction): Promise<void> {
    const { history, daily } = this;
    const prepared = this.scorer.history(history);
    const row = (changes: Partial<Transaction>) => ({
      transaction: { ...payment, ...changes },
      history: prepared,
      daily,
    });
    const byHour = HOURS.map((hour) => row(atHour(payment, hour)));
    const byAmount = AMOUNTS.map((amount) => row({ amount }));
    const answers = await this.scorer.scoreMany([...byHour, ...byAmount]);
    const probabilities = answers.map((answer) => answer.fraud_probability);
    const { threshold } = this.scorer;
    byId("by-hour", HTMLElement).replaceChildren(
      bars(probabilities.slice(0, 24), threshold, hourOf(payment) ?? -1, HOURS.map(String), (i) =>
        this.change(atHour(this.payment, i)),
      ),
    );
    byId("by-amount", HTMLElement).replaceChildren(
      bars(
        probabilities.slice(24),
        threshold,
        AMOUNTS.indexOf(payment.amount),
        AMOUNTS.map((n) => n.toLocaleString("en")),
        (i) => this.change({ amount: AMOUNTS[i] ?? 1 }),
      ),
    );
  }
}

/** Whether a parsed text is a JSON object. */
function isObject(found: unknown): boolean {
  return typeof found === "object" && found !== null && !Array.isArray(found) && !(found instanceof Error);
}

/** The JSON of a text, or the error. */
function parsed(written: string): unknown {
  try {
    return JSON.parse(written) as unknown;
  } catch (error) {
    return error;
  }
}

function percent(probability: number): string {
  const digits = probability >= 0.1 ? 1 : probability >= 0.01 ? 2 : 3;
  return `${(probability * 100).toFixed(digits)} %`;
}

function shortly(value: unknown): string {
  return typeof value === "number" && !Number.isInteger(value)
    ? String(Number(value.toPrecision(5)))
    : String(value ?? "unknown");
}

/** The scorer is a module of its own in the export, and is not bundled into the page a second time. */
async function start(): Promise<void> {
  try {
    const module = "./fraud-scorer.js";
    const { load } = (await import(module)) as typeof import("../src/index.ts");
    new Page(await load());
  } catch (error) {
    show(byId("version", HTMLElement), "not loaded");
    show(byId("refused", HTMLElement), `The model is not used. ${(error as Error).message}`);
  }
}

void start();
