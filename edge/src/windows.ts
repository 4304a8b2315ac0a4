/**
 * The window features of one payment, from the history of an entity (`fraud.core.windows`).
 *
 * A window of length w of a payment at time t contains the events with `max(t - w, newest - keep) <= time < t`. Nulls of
 * the aggregated column are skipped. Ids and categories are compared as texts: the server compares their 64-bit hashes,
 * which differs only if two texts of one history have the same hash (at most 4,096 texts: less than 1 in 10^12).
 */

import { scaleOf, US_PER_SECOND } from "./contract.ts";
import type { Aggregate, Declaration, WindowFeature } from "./declaration.ts";
import { emptyOf } from "./declaration.ts";
import type { Layout, PriorHistory } from "./history.ts";
import type { Value } from "./public.ts";

/** Values of a column at the events [from, until), the payment's own value, the compared value; null is null. */
type OfColumn = (values: readonly Value[], from: number, until: number, own: Value, feature: Compiled) => number | null;

interface Compiled {
  /** Index among the window lengths. */
  length: number;
  /** Index among the stored columns; -1 for none. */
  column: number;
  aggregate: Aggregate;
  of: OfColumn | null;
  /** Units per 1 of a number column. */
  divisor: number;
  /** share: the counted value. */
  value: Value;
}

/** The window features of one entity. `names` are in declared order. */
export class WindowSet {
  readonly names: readonly string[];
  readonly empty: readonly (number | null)[];
  readonly layout: Layout;
  private readonly lengths: readonly number[];
  private readonly features: readonly Compiled[];

  /** `names`: the columns of a payment. */
  constructor(declaration: Declaration, entity: string, features: readonly WindowFeature[], names: readonly string[]) {
    const found = declaration.entities.get(entity);
    const columns = [...new Set(features.map((feature) => feature.column).filter((name) => name !== ""))].sort();
    this.layout = {
      entity,
      idAt: names.indexOf(found?.id ?? ""),
      columns: columns.map((name) => ({
        at: names.indexOf(name),
        scale: scaleOf(declaration.columns.get(name)?.decimals ?? 0),
      })),
      maxEvents: found?.maxEvents ?? 0,
      keepUs: found?.keepUs ?? 0,
    };
    this.names = features.map((feature) => feature.name);
    this.empty = features.map(emptyOf);
    this.lengths = [...new Set(features.map((feature) => feature.windowUs))].sort((a, b) => a - b);
    this.features = features.map((feature) => ({
      length: this.lengths.indexOf(feature.windowUs),
      column: columns.indexOf(feature.column),
      aggregate: feature.aggregate,
      of: OF_COLUMN[feature.aggregate] ?? null,
      divisor: scaleOf(declaration.columns.get(feature.column)?.decimals ?? 0),
      value: feature.value ?? true,
    }));
  }

  /** Values of a payment at `atUs` (us), in the order of `names`. `values`: the payment's, by column. */
  evaluate(prior: PriorHistory, atUs: number, values: readonly Value[]): (number | null)[] {
    const { times, columns, from, until } = ordered(prior);
    const end = bisectLeft(times, atUs, from, until);
    const oldest = bisectLeft(times, prior.newestUs - this.layout.keepUs, from, end);
    const starts = this.lengths.map((us) => bisectLeft(times, atUs - us, oldest, end));
    return this.features.map((feature, i) => {
      const start = starts[feature.length] ?? end;
      const empty = this.empty[i] ?? null;
      if (start >= end) {
        return empty;
      }
      const column = columns[feature.column] ?? [];
      const own = values[this.layout.columns[feature.column]?.at ?? -1] ?? null;
      switch (feature.aggregate) {
        case "count":
          return end - start;
        case "seconds_since_last":
          return (atUs - (times[end - 1] ?? atUs)) / US_PER_SECOND;
        case "same_as_last": {
          const last = column[end - 1] ?? null;
          return own === null || last === null ? null : Number(own === last);
        }
        default:
          return feature.of === null ? empty : (feature.of(column, start, end, own, feature) ?? empty);
      }
    });
  }
}

/** The first index in [from, until) whose time is at least `at`. */
function bisectLeft(times: readonly number[], at: number, from: number, until: number): number {
  let low = from;
  let high = until;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((times[middle] ?? 0) < at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

interface Ordered {
  times: readonly number[];
  columns: readonly (readonly Value[])[];
  from: number;
  until: number;
}

/** The events by event time. The sort is stable: of events at one microsecond the one that arrived later is last. */
function ordered({ of, from, until }: PriorHistory): Ordered {
  const { times, columns } = of;
  let sorted = true;
  for (let i = from + 1; i < until && sorted; i++) {
    sorted = (times[i - 1] ?? 0) <= (times[i] ?? 0);
  }
  if (sorted) {
    return { times, columns, from, until };
  }
  const order = Array.from({ length: until - from }, (_, i) => from + i);
  order.sort((a, b) => (times[a] ?? 0) - (times[b] ?? 0));
  return {
    times: order.map((i) => times[i] ?? 0),
    columns: columns.map((column) => order.map((i) => column[i] ?? null)),
    from: 0,
    until: order.length,
  };
}

/**
 * The sum of units, rounded once to a double, and the number of values.
 *
 * Units are at most 2^50, so each is exact. While the sum is a safe integer every addition was exact; a larger one is
 * added again as a BigInt, and its conversion rounds half to even, as Python's `float(int)`.
 */
function total(values: readonly Value[], from: number, until: number): [number, number] {
  let sum = 0;
  let count = 0;
  let exact = true;
  for (let i = from; i < until; i++) {
    const value = values[i];
    if (typeof value === "number") {
      sum += value;
      count++;
      exact = exact && Number.isSafeInteger(sum);
    }
  }
  if (exact) {
    return [sum, count];
  }
  let large = 0n;
  for (let i = from; i < until; i++) {
    const value = values[i];
    large += typeof value === "number" ? BigInt(value) : 0n;
  }
  return [Number(large), count];
}

/** The smallest (sign -1) or largest (sign 1) units. */
function extreme(values: readonly Value[], from: number, until: number, sign: number): number | null {
  let found: number | null = null;
  for (let i = from; i < until; i++) {
    const value = values[i];
    if (typeof value === "number" && (found === null || sign * value > sign * found)) {
      found = value;
    }
  }
  return found;
}

/** [values equal to `value`, values that are not null]. */
function counts(values: readonly Value[], from: number, until: number, value: Value): [number, number] {
  let equal = 0;
  let present = 0;
  for (let i = from; i < until; i++) {
    const found = values[i] ?? null;
    equal += Number(found === value);
    present += Number(found !== null);
  }
  return [equal, present];
}

function divided(units: number | null, divisor: number): number | null {
  return units === null ? null : units / divisor;
}

/** Aggregates of a column's values inside the window. The others need the event times or the last event only. */
const OF_COLUMN: Partial<Record<Aggregate, OfColumn>> = {
  sum: (values, from, until, _own, { divisor }) => total(values, from, until)[0] / divisor,
  mean: (values, from, until, _own, { divisor }) => {
    const [sum, count] = total(values, from, until);
    return count === 0 ? null : sum / (count * divisor);
  },
  min: (values, from, until, _own, { divisor }) => divided(extreme(values, from, until, -1), divisor),
  max: (values, from, until, _own, { divisor }) => divided(extreme(values, from, until, 1), divisor),
  distinct: (values, from, until) => {
    const found = new Set<Value>();
    for (let i = from; i < until; i++) {
      found.add(values[i] ?? null);
    }
    return found.size - Number(found.has(null));
  },
  share: (values, from, until, _own, { value }) => {
    const [equal, present] = counts(values, from, until, value);
    return present === 0 ? null : equal / present;
  },
  matches: (values, from, until, own) => (own === null ? 0 : counts(values, from, until, own)[0]),
};
