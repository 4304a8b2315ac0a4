/** Payments to begin with, built from the declared columns. */

import type { Scorer, Transaction } from "../src/public.ts";
import { VELOCITY } from "../src/shortRequest.ts";
import { takesVelocity } from "./controls.ts";

const DAY_MS = 86_400_000;

function ofColumns(scorer: Scorer, seed: number): Partial<Transaction> {
  const found: Partial<Transaction> = {};
  for (const [name, column] of Object.entries(scorer.columns)) {
    if (column.type === "category" && column.values) {
      found[name] = column.values[seed % column.values.length] ?? null;
    }
    if (column.type === "number" && name !== "amount") {
      const [least, most] = [column.min ?? 0, column.max ?? 1];
      found[name] = Number((least + (most - least) * 0.0005 * (1 + seed)).toPrecision(3));
    }
  }
  return found;
}

/** A payment without ids, as the handbook's short request. */
export function short(scorer: Scorer): Transaction {
  const velocity = takesVelocity(scorer) ? { [VELOCITY]: 12 } : {};
  return { amount: 4999.99, hour_of_day: 3, day_of_week: 2, ...velocity, ...ofColumns(scorer, 0) };
}

/** A payment of a user, and the earlier ones. */
export function withHistory(scorer: Scorer): [Transaction, Transaction[]] {
  const night = Math.floor(Date.now() / DAY_MS) * DAY_MS - DAY_MS + 3 * 3_600_000;
  const payment = (number: number, before: number, amount: number): Transaction => ({
    amount,
    ...ofColumns(scorer, number % 3),
    transaction_id: `example-${number}`,
    user_id: "example-user",
    merchant_id: `example-merchant-${number % 4}`,
    event_timestamp: new Date(night - before).toISOString(),
  });
  const earlier = [
    payment(0, 12.4 * DAY_MS, 42.1),
    payment(1, 8.2 * DAY_MS, 18.75),
    payment(2, 5.5 * DAY_MS, 63),
    payment(3, 3.1 * DAY_MS, 27.4),
    payment(4, 1.6 * DAY_MS, 35.99),
    payment(5, 40 * 60_000, 310),
    payment(6, 22 * 60_000, 540),
    payment(7, 9 * 60_000, 760),
  ];
  return [payment(8, 0, 890), earlier];
}
