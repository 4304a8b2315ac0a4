/** What is computed for a payment: its features, from the histories and daily rows, and the model's input. */

import { MAX_FUTURE_SKEW_US } from "./contract.ts";
import { type DailyFeature, type Declaration, unknownOf, valuesOf, type WindowFeature } from "./declaration.ts";
import { Histories, type PriorHistory } from "./history.ts";
import {
  type Answer,
  ContractError,
  type Daily,
  type History,
  type Row,
  type Transaction,
  type Value,
} from "./public.ts";
import { type Payment, RequestType } from "./request.ts";
import * as shortRequest from "./shortRequest.ts";
import { Vector } from "./vector.ts";
import { WindowSet } from "./windows.ts";

/** Base values and what they were computed from. */
export interface Computed {
  payment: Payment;
  /** In the order of `Vector.inputs`; null is null. */
  base: (number | null)[];
  source: Answer["history"];
  degraded: boolean;
  repeated: boolean;
}

/** The daily features of one entity. */
interface Table {
  entity: string;
  idAt: number;
  features: readonly DailyFeature[];
}

interface Category {
  name: string;
  at: number;
  /** Value -> index. */
  codes: ReadonlyMap<string, number>;
  unknown: string;
}

/** The histories that a payment's features are computed from. */
class Prepared implements History {
  readonly of: readonly Histories[];

  constructor(
    windows: readonly WindowSet[],
    private readonly read: (transaction: Transaction) => Payment,
  ) {
    this.of = windows.map(({ layout }) => new Histories(layout));
  }

  add(transaction: Transaction): void {
    const { transactionId, eventUs, values } = this.read(transaction);
    if (transactionId === null || eventUs === null) {
      const field = transactionId === null ? "transaction_id" : "event_timestamp";
      throw new ContractError(field, "is required of a payment in a history");
    }
    for (const histories of this.of) {
      histories.append(transactionId, eventUs, values);
    }
  }
}

/** Columns, histories, daily tables and vector of a version's declaration. */
export class Plan {
  readonly vector: Vector;
  /** Window and daily features; values of a payment are in this order. */
  readonly features: readonly string[];
  readonly tables: readonly Table[];
  private readonly request: RequestType;
  private readonly windows: readonly WindowSet[];
  private readonly categories: readonly Category[];
  /** Position of the feature that the short request can give, and of its window set; -1 for none. */
  private readonly velocity: readonly [number, number];
  /** Per base value after hour and weekday: position among the payment's values, position among `features`. */
  private readonly sources: readonly (readonly [number, number])[];
  /** By position among the payment's values. */
  private readonly codes: ReadonlyMap<number, Category>;

  constructor(
    declaration: Declaration,
    /** Default rows by entity, for an entity of which no daily row is given. */
    private readonly dailyDefault: Daily,
    private readonly nowMs: () => number,
  ) {
    const { features } = declaration;
    this.request = new RequestType(declaration);
    const { names } = this.request;
    const entities = [...declaration.entities.keys()].sort();
    const windows: WindowSet[] = [];
    const tables: Table[] = [];
    for (const entity of entities) {
      const own = features.filter((f): f is WindowFeature => f.kind === "window" && f.entity === entity);
      if (own.length > 0) {
        windows.push(new WindowSet(declaration, entity, own, names));
      }
      const daily = features.filter((f): f is DailyFeature => f.kind === "daily" && f.entity === entity);
      if (daily.length > 0) {
        tables.push({ entity, idAt: names.indexOf(declaration.entities.get(entity)?.id ?? ""), features: daily });
      }
    }
    this.windows = windows;
    this.tables = tables;
    this.vector = new Vector(declaration);
    const ofWindows = windows.flatMap((set) => set.names);
    this.features = [...ofWindows, ...tables.flatMap((table) => table.features.map((feature) => feature.name))];
    this.velocity = [
      ofWindows.indexOf(shortRequest.VELOCITY_FEATURE),
      windows.findIndex((set) => set.names.includes(shortRequest.VELOCITY_FEATURE)),
    ];
    this.sources = this.vector.base.map((feature) =>
      feature.kind === "request" ? [names.indexOf(feature.column), -1] : [-1, this.features.indexOf(feature.name)],
    );
    const categories: Category[] = [];
    for (const [name, column] of declaration.columns) {
      if (column.type === "category") {
        const codes = new Map(valuesOf(column).map((value, i) => [value, i]));
        categories.push({ name, at: names.indexOf(name), codes, unknown: unknownOf(column) });
      }
    }
    this.categories = categories;
    this.codes = new Map(categories.map((category) => [category.at, category]));
  }

  /** A prepared history. Throws ContractError with the payment's index in `field`. */
  history(transactions: readonly Transaction[]): History {
    const prepared = new Prepared(this.windows, (transaction) => this.read(transaction));
    if (!Array.isArray(transactions)) {
      throw new ContractError("history", "Expected `array`");
    }
    transactions.forEach((transaction, i) => {
      try {
        prepared.add(transaction);
      } catch (error) {
        throw named(error, `history[${i}]`);
      }
    });
    return prepared;
  }

  /** The base values of a payment. Throws ContractError. */
  compute({ transaction, history, daily }: Row): Computed {
    const payment = this.read(transaction);
    const found: Computed = { payment, base: [], source: "none", degraded: false, repeated: false };
    const features: (number | null)[] = [];
    const prepared = this.prepared(payment, history);
    const reads = this.windows.map((set) => this.priorHistory(set, payment, prepared));
    this.windows.forEach((set, i) => {
      const prior = reads[i] ?? null;
      if (prior === null || prior === "unavailable") {
        features.push(...set.empty);
        found.degraded ||= prior === "unavailable";
        return;
      }
      found.source = "store";
      features.push(...set.evaluate(prior, payment.eventUs ?? 0, payment.values));
    });
    found.repeated = this.isRepeated(reads);
    for (const table of this.tables) {
      features.push(...this.dailyRow(table, payment, daily ?? {}));
    }
    const [feature, set] = this.velocity;
    if (payment.velocity !== null && feature >= 0 && reads[set] === null) {
      features[feature] = payment.velocity;
      found.source = found.source === "store" ? "store" : "request";
    }
    found.base = this.baseValues(payment, features);
    return found;
  }

  /** Category column -> the value that is used for a payment. */
  categoriesOf(payment: Payment): Record<string, string> {
    const found: Record<string, string> = {};
    for (const { name, at, codes, unknown } of this.categories) {
      const text = payment.values[at] as string;
      found[name] = codes.has(text) ? text : unknown;
    }
    return found;
  }

  /** Base values by name; a category as its text. */
  readable(base: readonly (number | null)[]): Record<string, Value> {
    const found: Record<string, Value> = {};
    this.vector.inputs.forEach(({ name, categories }, i) => {
      const value = base[i] ?? null;
      found[name] = categories.length > 0 && value !== null ? (categories[value] ?? null) : value;
    });
    return found;
  }

  private read(transaction: unknown): Payment {
    return this.request.validated(transaction, this.nowMs() * 1_000 + MAX_FUTURE_SKEW_US);
  }

  /** The given history; null without one or where no history is read. */
  private prepared(payment: Payment, history: Row["history"]): Prepared | null {
    if (history === undefined || history === null || payment.eventUs === null || payment.transactionId === null) {
      return null;
    }
    const prepared = history instanceof Prepared ? history : this.history(history as readonly Transaction[]);
    if (!(prepared instanceof Prepared) || prepared.of.some((of, i) => of.layout !== this.windows[i]?.layout)) {
      throw new ContractError("history", "was prepared by another scorer");
    }
    return prepared;
  }

  /** The history of a payment's entity; null if the payment does not have it. */
  private priorHistory(
    set: WindowSet,
    payment: Payment,
    history: Prepared | null,
  ): PriorHistory | "unavailable" | null {
    const id = payment.values[set.layout.idAt];
    if (payment.eventUs === null || payment.transactionId === null || typeof id !== "string") {
      return null;
    }
    const of = history?.of[this.windows.indexOf(set)];
    return of === undefined ? "unavailable" : of.before(id, payment.transactionId);
  }

  /** Whether the payment is in the history of its user; without a user, of the first entity with a history. */
  private isRepeated(reads: readonly (PriorHistory | "unavailable" | null)[]): boolean {
    const byUser = this.windows.findIndex((set) => set.layout.idAt === 0);
    const read = reads[Math.max(byUser, 0)] ?? null;
    return read !== null && read !== "unavailable" && read.repeated;
  }

  /** The values of a daily table: the given row, the default row, or those without a snapshot. */
  private dailyRow({ entity, idAt, features }: Table, payment: Payment, daily: Daily): (number | null)[] {
    const row = payment.values[idAt] === null ? undefined : (daily[entity] ?? this.dailyDefault[entity]);
    return features.map(({ name, empty }) => {
      if (row === undefined) {
        return empty;
      }
      const value = row[name];
      const valid = value === null ? empty === null : typeof value === "number" && Number.isFinite(value);
      if (value === undefined || !valid) {
        const type = empty === null ? "`float | null`" : "`float`";
        throw new ContractError(`daily.${entity}.${name}`, `Expected ${type}, every daily feature of the entity`);
      }
      return value;
    });
  }

  private baseValues(payment: Payment, features: readonly (number | null)[]): (number | null)[] {
    const base: (number | null)[] = [payment.hour, payment.weekday];
    for (const [at, feature] of this.sources) {
      if (at < 0) {
        base.push(features[feature] ?? null);
        continue;
      }
      const value = payment.values[at] ?? null;
      if (typeof value === "string") {
        const category = this.codes.get(at);
        base.push(category?.codes.get(value) ?? category?.codes.get(category.unknown) ?? null);
      } else {
        base.push(value === null ? null : Number(value));
      }
    }
    return base;
  }
}

/** The error with the place in front of its field. */
export function named(error: unknown, place: string): unknown {
  return error instanceof ContractError
    ? new ContractError(error.field ? `${place}.${error.field}` : place, error.reason)
    : error;
}
