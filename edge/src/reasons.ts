/**
 * Reasons of a decision: exact Shapley values of groups of inputs against a reference payment, as serving's
 * `fraud_serving.model.shapley` computes them: the model scores the payment with every subset of the groups replaced by
 * those of the reference. Source: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", 2017, eq. 4.
 */

import type { Plan } from "./plan.ts";
import { type Reason, RefusedError, type Value } from "./public.ts";

/** Reasons in an answer. */
const MAX_REASONS = 4;
const MAX_GROUPS = 12;

/** The groups of a version's inputs, and its reference payment. */
export class Groups {
  /** Group -> names of its inputs. */
  readonly inputs: Readonly<Record<string, readonly string[]>>;
  private readonly names: readonly string[];
  private readonly reference: readonly (number | null)[];
  /** Per base value: the group's bit in the number of a row. */
  private readonly bits: readonly number[];

  /** `reference`: base values of a typical payment in the order of `Vector.inputs`. Throws RefusedError. */
  constructor(
    private readonly plan: Plan,
    reference: unknown,
  ) {
    const { inputs } = plan.vector;
    if (!Array.isArray(reference) || reference.length !== inputs.length) {
      throw new RefusedError("format", `serving.json: expected a reference payment of ${inputs.length} base values`);
    }
    this.reference = reference.map((value: unknown, i) => {
      const input = inputs[i];
      const valid =
        input && input.categories.length > 0 ? isIndex(value, input.categories.length) : isNumberOrNull(value);
      if (!valid) {
        throw new RefusedError(
          "format",
          `serving.json: reference payment: ${input?.name}: got ${JSON.stringify(value)}`,
        );
      }
      return value as number | null;
    });
    const grouped: Record<string, string[]> = {};
    for (const { group, name } of inputs) {
      grouped[group] = [...(grouped[group] ?? []), name];
    }
    this.inputs = grouped;
    this.names = Object.keys(grouped);
    if (this.names.length > MAX_GROUPS) {
      throw new RefusedError("features", `expected at most ${MAX_GROUPS} groups, got ${this.names.length}`);
    }
    this.bits = inputs.map(({ group }) => 1 << this.names.indexOf(group));
  }

  /** Rows of the call that `contributions` needs. */
  get rows(): number {
    return 1 << this.names.length;
  }

  /** The vectors to score: `rows` of them. */
  vectors(base: readonly (number | null)[]): Float32Array {
    const { vector } = this.plan;
    const width = vector.names.length;
    const out = new Float32Array(this.rows * width);
    for (let row = 0; row < this.rows; row++) {
      const mixed = base.map((value, i) => ((row & (this.bits[i] ?? 0)) === 0 ? (this.reference[i] ?? null) : value));
      vector.write(out, row * width, mixed);
    }
    return out;
  }

  /** The groups with the largest contributions. `probabilities`: of the rows of `vectors(base)`. */
  reasons(base: readonly (number | null)[], probabilities: Float32Array): Reason[] {
    const own = this.plan.readable(base);
    const ordinary = this.plan.readable(this.reference);
    return this.contributions(probabilities)
      .map((contribution, i): [string, number] => [this.names[i] ?? "", contribution])
      .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]))
      .slice(0, MAX_REASONS)
      .map(([code, contribution]) => ({
        code,
        contribution: rounded(contribution),
        values: this.chosen(code, own),
        ordinary: this.chosen(code, ordinary),
      }));
  }

  private chosen(group: string, values: Readonly<Record<string, Value>>): Record<string, Value> {
    return Object.fromEntries((this.inputs[group] ?? []).map((name) => [name, values[name] ?? null]));
  }

  private contributions(probabilities: Float32Array): number[] {
    const count = this.names.length;
    const joining = Array.from(
      { length: count },
      (_, s) => (factorial(s) * factorial(count - s - 1)) / factorial(count),
    );
    return this.names.map((_, group) => {
      let sum = 0;
      for (let row = 0; row < this.rows; row++) {
        const probability = probabilities[row] ?? 0;
        const size = bitsOf(row);
        sum += row & (1 << group) ? (joining[size - 1] ?? 0) * probability : -(joining[size] ?? 0) * probability;
      }
      return sum;
    });
  }
}

function isIndex(value: unknown, count: number): boolean {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < count;
}

function isNumberOrNull(value: unknown): boolean {
  return value === null || typeof value === "number";
}

function factorial(n: number): number {
  return n < 2 ? 1 : n * factorial(n - 1);
}

function bitsOf(row: number): number {
  let count = 0;
  for (let left = row; left > 0; left >>= 1) {
    count += left & 1;
  }
  return count;
}

/** Six decimals. */
function rounded(value: number): number {
  return Number(value.toFixed(6));
}
