import assert from "node:assert/strict";
import { test } from "node:test";
import { readDeclaration } from "../src/declaration.ts";
import { Plan } from "../src/plan.ts";
import { ContractError, type Row } from "../src/public.ts";
import { declared, NOON_MS, ofRequest, ofWindow, payment } from "./declared.ts";

function plan(features: object[], maxEvents?: number, daily = {}): Plan {
  return new Plan(readDeclaration(declared(features, maxEvents)), daily, () => NOON_MS);
}

function values(of: Plan, row: Row): Record<string, number | null> {
  const { base } = of.compute(row);
  return Object.fromEntries(of.vector.inputs.map(({ name }, i) => [name, base[i] ?? null]));
}

function vector(of: Plan, row: Row): Record<string, number> {
  const out = new Float32Array(of.vector.names.length);
  of.vector.write(out, 0, of.compute(row).base);
  return Object.fromEntries(of.vector.names.map((name, i) => [name, out[i] ?? Number.NaN]));
}

const HISTORY = [
  payment("1", -7_200, { amount: 1.03125, place: "here", score: 2, present: true }), // 1.0312: a half to even
  payment("2", -3_600, { amount: 3, place: "elsewhere", score: -1, present: false, merchant_id: "n" }),
  payment("3", -60, { amount: 5, place: "there" }),
  payment("4", 0, { amount: 100 }), // at the payment's own microsecond: not before it
  payment("5", -30, { amount: 7, user_id: "another" }),
];

test("the aggregates of a window, by hand", () => {
  const of = plan([
    ofWindow("n_1h", "count", "1h"),
    ofWindow("n_2h", "count", "2h"),
    ofWindow("total", "sum", "2h", { column: "amount" }),
    ofWindow("average", "mean", "2h", { column: "amount" }),
    ofWindow("low", "min", "2h", { column: "score" }),
    ofWindow("high", "max", "2h", { column: "score" }),
    ofWindow("shops", "distinct", "2h", { column: "merchant_id" }),
    ofWindow("places", "distinct", "2h", { column: "place" }),
    ofWindow("since", "seconds_since_last", "2h"),
    ofWindow("presence", "share", "2h", { column: "present" }),
    ofWindow("here", "share", "2h", { column: "place", value: "here" }),
    ofWindow("same", "matches", "2h", { column: "merchant_id" }),
    ofWindow("as_last", "same_as_last", "2h", { column: "place" }),
    ofWindow("none", "mean", "30m", { column: "score" }),
  ]);
  const found = values(of, { transaction: payment("now", 0, { place: "there" }), history: HISTORY });
  assert.deepEqual(found, {
    hour_of_day: 12,
    day_of_week: 5,
    amount: 10,
    n_1h: 2,
    n_2h: 3,
    total: 9.0312,
    average: 3.0104,
    low: -1,
    high: 2,
    shops: 2,
    places: 3,
    since: 60,
    presence: 0.5,
    here: 1 / 3,
    same: 2,
    as_last: 1,
    none: null,
  });
});

test("a sum beyond 2^53 is exact until it is rounded once, half to even", () => {
  // 900,000,000.000001 has 900,000,000,000,001 units; 11 of them are 9,900,000,000,000,011, which no double is.
  const history = Array.from({ length: 11 }, (_, i) => payment(`${i}`, -60 - i, { score: 900_000_000.000001 }));
  const of = plan([ofWindow("total", "sum", "1h", { column: "score" })], 64);
  const found = values(of, { transaction: payment("now", 0), history });
  assert.equal(found["total"], Number(9_900_000_000_000_011n) / 1e6);
});

test("a repeated id counts once, a late event is not added, and the bound counts the newest arrivals", () => {
  const of = plan([ofWindow("n", "count", "7d")]);
  const day = 86_400;
  const history = [
    payment("old", -8 * day),
    payment("a", 0),
    payment("a", -5),
    payment("late", -8 * day),
    payment("b", -6 * day),
  ];
  const now = payment("now", 60);
  assert.equal(values(of, { transaction: now, history })["n"], 2); // a and b
  const nine = Array.from({ length: 9 }, (_, i) => payment(`${i}`, -i));
  assert.equal(values(of, { transaction: now, history: nine })["n"], 8);
});

test("a payment that is in its history is scored with the events before it", () => {
  const of = plan([ofWindow("n", "count", "7d")]);
  const history = [payment("a", 0), payment("b", 1), payment("c", 2)];
  const found = of.compute({ transaction: payment("b", 1), history });
  assert.deepEqual([found.base[3], found.repeated, found.source], [1, true, "store"]);
});

test("without its history a payment of a user is degraded; an empty history is known", () => {
  const of = plan([ofWindow("n", "count", "7d")]);
  const missing = of.compute({ transaction: payment("a", 0) });
  assert.deepEqual([missing.base[3], missing.degraded, missing.source], [0, true, "none"]);
  const empty = of.compute({ transaction: payment("a", 0), history: [] });
  assert.deepEqual([empty.base[3], empty.degraded, empty.source], [0, false, "store"]);
});

test("the velocity of a short request counts without a user only", () => {
  const of = plan([ofWindow("transaction_velocity_1h", "count", "1h")]);
  const short = { amount: 1, hour_of_day: 3, day_of_week: 2, transaction_velocity: 12 };
  const found = of.compute({ transaction: short });
  assert.deepEqual([found.base[3], found.source, found.degraded], [12, "request", false]);
  assert.equal(of.compute({ transaction: payment("a", 0, { transaction_velocity: 12 }), history: [] }).base[3], 0);
});

test("the vector: imputation, derived features, categories, by hand", () => {
  const of = plan([
    ofRequest("score", "column", { column: "score", default: "amount" }),
    ofRequest("no_score", "missing", { of: "score" }),
    ofRequest("ratio", "ratio", { of: "amount", by: "zero", default: -1 }),
    ofRequest("half", "ratio", { of: "amount", by: "twice" }),
    ofRequest("zero", "difference", { of: "amount", minus: "amount" }),
    ofRequest("twice", "difference", { of: "amount", minus: "minus" }),
    ofRequest("minus", "difference", { of: "zero", minus: "amount" }),
    ofRequest("night", "hour_between", { first: 22, until: 6 }),
    ofRequest("noon", "hour_between", { first: 12, until: 13 }),
    ofRequest("weekend", "day_in", { days: [5, 6] }),
    ofRequest("place", "column", { column: "place" }),
    ofRequest("present", "column", { column: "present", default: 0.25 }),
  ]);
  const found = vector(of, { transaction: payment("a", 0, { place: "nowhere" }), history: [] });
  assert.deepEqual(found, {
    amount: 10,
    score: 10,
    no_score: 1,
    ratio: -1,
    half: 0.5,
    zero: 0,
    twice: 20,
    minus: -10,
    night: 0,
    noon: 1,
    weekend: 1,
    place_here: 0,
    place_other: 1,
    place_there: 0,
    present: 0.25,
  });
});

test("daily values: the given row, the default row, and those without a snapshot", () => {
  const feature = {
    kind: "daily",
    entity: "shop",
    input: true,
    default: 0,
    days: 7,
    strength: 20,
    label_delay_days: 7,
  };
  const features = [
    { ...feature, name: "sales", aggregate: "count" },
    { ...feature, name: "rate", aggregate: "fraud_rate" },
  ];
  const transaction = payment("a", 0);
  const rows = (daily: object, row: Row) => {
    const found = values(plan(features, 8, daily), row);
    return [found["sales"], found["rate"]];
  };
  const standing = { shop: { sales: 3, rate: 0.125 } };
  assert.deepEqual(rows(standing, { transaction, daily: { shop: { sales: 5, rate: null } } }), [5, null]);
  assert.deepEqual(rows(standing, { transaction }), [3, 0.125]);
  assert.deepEqual(rows({}, { transaction }), [0, null]);
  const alone = { amount: 1, hour_of_day: 1, day_of_week: 1 };
  assert.deepEqual(rows(standing, { transaction: alone }), [0, null]);
  assert.throws(
    () => rows({}, { transaction, daily: { shop: { sales: 5 } } }),
    (error) => error instanceof ContractError && error.field === "daily.shop.rate",
  );
});

test("an error in a history names the payment", () => {
  const of = plan([ofWindow("n", "count", "7d")]);
  const history = [payment("a", 0), { ...payment("b", 0), amount: 0 }];
  assert.throws(
    () => of.compute({ transaction: payment("c", 0), history }),
    (error) => error instanceof ContractError && error.field === "history[1].amount",
  );
});

test("a prepared history gives the same, and belongs to its scorer", () => {
  const of = plan([ofWindow("n", "count", "7d")]);
  const history = of.history([payment("a", 0)]);
  history.add(payment("b", 1));
  assert.equal(values(of, { transaction: payment("c", 2), history })["n"], 2);
  const other = plan([ofWindow("n", "count", "7d")]);
  assert.throws(() => values(other, { transaction: payment("c", 2), history }), /another scorer/);
});

test("a declaration of a later platform is refused, naming the part", () => {
  const unknown = (feature: object) => () => readDeclaration(declared([feature]));
  assert.throws(
    unknown(ofWindow("n", "median", "7d", { column: "amount" })),
    /features\.1\.aggregate: expected one of/,
  );
  assert.throws(unknown(ofRequest("n", "logarithm")), /features\.1\.op/);
  assert.throws(unknown({ ...ofWindow("n", "count", "7d"), kind: "graph" }), /features\.1\.kind/);
  assert.throws(unknown(ofWindow("n", "count", "7w")), /features\.1\.window: expected a duration/);
  assert.throws(unknown(ofRequest("n", "missing", { of: "nothing" })), /expected the name of a feature/);
});
