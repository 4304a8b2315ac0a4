/** A declaration and payments for the tests. */

import type { Transaction } from "../src/public.ts";

const request = { kind: "request", input: true, default: 0 };
const ofUser = { kind: "window", entity: "user", input: true, default: 0 };

/** The canonical JSON of a declaration with columns of each type. */
export function declared(features: object[] = [], maxEvents = 8): object {
  return {
    columns: {
      place: { type: "category", values: ["here", "other", "there"], unknown: "other" },
      score: { type: "number", unit: "points", min: -1e9, max: 1e9, decimals: 6 },
      present: { type: "flag" },
      device: { type: "id" },
    },
    daily: { available_at: "03:00" },
    entities: {
      user: { id: "user_id", max_events: maxEvents, keep: "7d" },
      shop: { id: "merchant_id", max_events: null, keep: null },
    },
    features: [{ ...request, name: "amount", op: "column", column: "amount" }, ...features],
  };
}

/** A window feature of the user. */
export function ofWindow(name: string, aggregate: string, window: string, more: object = {}): object {
  return { ...ofUser, name, aggregate, window, ...more };
}

/** A request feature. */
export function ofRequest(name: string, op: string, more: object = {}): object {
  return { ...request, name, op, ...more };
}

/** 2026-01-10T12:00:00Z. */
export const NOON_MS = Date.UTC(2026, 0, 10, 12);

/** A user's payment, `seconds` after noon. */
export function payment(id: string, seconds: number, more: Partial<Transaction> = {}): Transaction {
  return {
    transaction_id: id,
    user_id: "u",
    merchant_id: "m",
    amount: 10,
    event_timestamp: new Date(NOON_MS + seconds * 1_000).toISOString(),
    ...more,
  };
}
