/**
 * The self-test before the first answer: the version's golden vectors through the model, and the export's golden
 * payments, with their histories, through features, model and threshold.
 */

import type { Declaration } from "./declaration.ts";
import { FORMAT } from "./folder.ts";
import { Plan } from "./plan.ts";
import { type Daily, RefusedError, type Transaction } from "./public.ts";
import type { Model } from "./runtime.ts";

/** Allowed difference of the version's golden probabilities between two machines, as in serving. */
const VERSION_TOLERANCE = 1e-5;

type Json = Readonly<Record<string, unknown>>;

interface GoldenRow {
  transaction: Transaction;
  history: Transaction[] | null;
  daily: Daily | null;
  features: Record<string, number | null>;
  vector: number[];
  probability: number;
  is_fraud: boolean;
}

/** Compares the golden vectors of serving.json. Throws RefusedError. */
export async function testModel(golden: Json, model: Model, width: number): Promise<void> {
  const vectors = golden["vectors"] as number[][] | undefined;
  const expected = golden["probabilities"] as number[] | undefined;
  if (
    !Array.isArray(vectors) ||
    !Array.isArray(expected) ||
    vectors.length === 0 ||
    vectors.length !== expected.length
  ) {
    throw new RefusedError("format", "serving.json: expected golden vectors and as many probabilities");
  }
  const got = await model.score(flat(vectors, width, "serving.json"));
  expected.forEach((probability, i) => {
    compare("serving.json: golden row", i, probability, got[i] ?? Number.NaN, VERSION_TOLERANCE);
  });
}

/** Compares the payments of golden.json. Throws RefusedError. */
export async function testPayments(
  golden: Json,
  declaration: Declaration,
  dailyDefault: Daily,
  model: Model,
  threshold: number,
): Promise<void> {
  const rows = golden["rows"] as GoldenRow[] | undefined;
  const tolerance = golden["tolerance"];
  const nowUs = golden["now_us"];
  if (
    golden["format"] !== FORMAT ||
    !Array.isArray(rows) ||
    rows.length === 0 ||
    typeof tolerance !== "number" ||
    typeof nowUs !== "number"
  ) {
    throw new RefusedError("format", `golden.json: expected format ${FORMAT}, now_us, tolerance and rows`);
  }
  const plan = new Plan(declaration, dailyDefault, () => nowUs / 1_000);
  const width = plan.vector.names.length;
  const vectors = new Float32Array(rows.length * width);
  rows.forEach((row, i) => {
    const { base } = plan.compute(row);
    plan.vector.inputs.forEach(({ name }, j) => {
      exact(`golden.json: row ${i}: ${name}`, row.features[name] ?? null, base[j] ?? null);
    });
    plan.vector.write(vectors, i * width, base);
  });
  const expected = flat(
    rows.map((row) => row.vector),
    width,
    "golden.json",
  );
  expected.forEach((value, i) => {
    const name = plan.vector.names[i % width];
    exact(`golden.json: row ${Math.floor(i / width)}: vector: ${name}`, value, vectors[i] ?? null);
  });
  const got = await model.score(vectors);
  rows.forEach((row, i) => {
    const probability = got[i] ?? Number.NaN;
    compare("golden.json: row", i, row.probability, probability, tolerance);
    if (probability >= threshold !== row.is_fraud) {
      throw new RefusedError(
        "golden",
        `golden.json: row ${i}: expected is_fraud ${row.is_fraud}, got ${!row.is_fraud}`,
      );
    }
  });
}

function flat(vectors: readonly number[][], width: number, name: string): Float32Array {
  if (vectors.some((vector) => !Array.isArray(vector) || vector.length !== width)) {
    throw new RefusedError("format", `${name}: expected vectors of ${width} columns`);
  }
  return Float32Array.from(vectors.flat());
}

/** Bits: 0 and -0 differ, NaN equals NaN. */
function exact(place: string, expected: number | null, got: number | null): void {
  if (!Object.is(expected, got)) {
    throw new RefusedError("golden", `${place}: expected ${expected}, got ${got}: this browser computes another value`);
  }
}

function compare(place: string, row: number, expected: number, got: number, tolerance: number): void {
  // The negation is true for NaN.
  if (!(Math.abs(got - expected) <= tolerance)) {
    const allowed = `a difference of at most ${tolerance}`;
    throw new RefusedError("golden", `${place} ${row}: expected probability ${expected}, ${allowed}, got ${got}`);
  }
}
