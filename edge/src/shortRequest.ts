/** Names of the handbook's short request, which is always accepted (`fraud.core.short_request`). */

import type { DeclaredColumn } from "./public.ts";

export const VELOCITY = "transaction_velocity";
/** The window feature that `VELOCITY` stands for in a payment without a user. */
export const VELOCITY_FEATURE = "transaction_velocity_1h";
export const MAX_VELOCITY = 1e6;
/** Fields that are checked and not used where the version does not declare them. */
export const UNUSED: Readonly<Record<string, DeclaredColumn>> = {
  merchant_category: { type: "id" },
  distance_from_home: { type: "number", unit: "miles", min: 0, max: 12_500 },
};
