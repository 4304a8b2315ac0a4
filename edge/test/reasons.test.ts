import assert from "node:assert/strict";
import { test } from "node:test";
import { readDeclaration } from "../src/declaration.ts";
import { Plan } from "../src/plan.ts";
import { Groups } from "../src/reasons.ts";
import { declared, NOON_MS, ofRequest, payment } from "./declared.ts";

const FEATURES = [ofRequest("score", "column", { column: "score" }), ofRequest("place", "column", { column: "place" })];

function groups(): { plan: Plan; groups: Groups } {
  const plan = new Plan(readDeclaration(declared(FEATURES)), {}, () => NOON_MS);
  return { plan, groups: new Groups(plan, [12, 5, 50, null, 0]) };
}

test("Shapley values of four groups, by hand", () => {
  const { plan, groups: of } = groups();
  assert.deepEqual(of.inputs, {
    time: ["hour_of_day", "day_of_week"],
    amount: ["amount"],
    score: ["score"],
    place: ["place"],
  });
  const { base } = plan.compute({
    transaction: payment("a", 0, { amount: 250, score: 1, place: "there" }),
    history: [],
  });
  const vectors = of.vectors(base);
  const width = plan.vector.names.length;
  // A model that is 0.001 * amount, and 0.25 more if score is 1 and the place is `there` at the same time.
  const probabilities = Float32Array.from({ length: of.rows }, (_, row) => {
    const value = (name: string) => vectors[row * width + plan.vector.names.indexOf(name)] ?? 0;
    return 0.001 * value("amount") + 0.25 * value("score") * value("place_there");
  });
  const reasons = of.reasons(base, probabilities);
  // The amount adds 0.25 - 0.05; the two others share 0.25; the time adds nothing.
  assert.deepEqual(
    reasons.map(({ code, contribution }) => [code, contribution]),
    [
      ["amount", 0.2],
      ["score", 0.125],
      ["place", 0.125],
      ["time", 0],
    ],
  );
  assert.deepEqual(reasons[2]?.values, { place: "there" });
  assert.deepEqual(reasons[2]?.ordinary, { place: "here" });
  assert.deepEqual(reasons[1]?.ordinary, { score: null });
});

test("a reference payment of another shape is refused", () => {
  const { plan } = groups();
  assert.throws(() => new Groups(plan, [12, 5]), /expected a reference payment of 5 base values/);
  assert.throws(() => new Groups(plan, [12, 5, 50, null, 3]), /place: got 3/);
});
