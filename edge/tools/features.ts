/**
 * Computes features without a model, for comparisons with the Python code: `node features.mjs`.
 *
 * Each line of standard input is {"declaration", "now_us", "rows": [{transaction, history, daily}]}; each line of
 * standard output is a list with, per row, {"base": hex of float64 in the order of the inputs (NaN: null), "vector": hex of float32, "history",
 * "degraded", "repeated", "categories"} or {"field", "reason"}.
 */

import { createInterface } from "node:readline";
import { readDeclaration } from "../src/declaration.ts";
import { Plan } from "../src/plan.ts";
import { ContractError, type Row } from "../src/public.ts";

interface Line {
  declaration: unknown;
  now_us: number;
  rows: Row[];
}

function computed(plan: Plan, row: Row): object {
  try {
    const { payment, base, source, degraded, repeated } = plan.compute(row);
    const vector = new Float32Array(plan.vector.names.length);
    plan.vector.write(vector, 0, base);
    return {
      base: Buffer.from(Float64Array.from(base, (value) => value ?? Number.NaN).buffer).toString("hex"),
      vector: Buffer.from(vector.buffer).toString("hex"),
      history: source,
      degraded,
      repeated,
      categories: plan.categoriesOf(payment),
      payment,
    };
  } catch (error) {
    if (error instanceof ContractError) {
      return { field: error.field, reason: error.reason };
    }
    throw error;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { declaration, now_us: nowUs, rows } = JSON.parse(line) as Line;
  const plan = new Plan(readDeclaration(declaration), {}, () => nowUs / 1_000);
  process.stdout.write(`${JSON.stringify(rows.map((row) => computed(plan, row)))}\n`);
}
