/**
 * Histories of entities as the online store keeps them (`fraud.core.history`, append_event.lua): events in the order of
 * their arrival, each transaction id once, without events that were too late, at most `max_events` before a payment.
 */

import { roundHalfEven } from "./contract.ts";
import type { Value } from "./public.ts";

/** A stored column: a number is stored as its units, value * scale, which are at most 2^50. */
export interface StoredColumn {
  /** Position among the payment's values. */
  at: number;
  /** Units per 1 of a number. */
  scale: number;
}

/** What one entity's records contain, and how many are kept. */
export interface Layout {
  entity: string;
  /** Position of the id column among the payment's values. */
  idAt: number;
  columns: readonly StoredColumn[];
  maxEvents: number;
  keepUs: number;
}

/** The history before a payment: the events [from, until) of a `Stored`. */
export interface PriorHistory {
  of: Stored;
  from: number;
  until: number;
  /** Latest event time before the payment (us); 0 without events. */
  newestUs: number;
  /** Whether the payment's transaction id is in the history. */
  repeated: boolean;
}

/** The events of one entity id. */
export class Stored {
  /** Event times (us). */
  readonly times: number[] = [];
  /** Per stored column: the units of numbers, the values of others; null is null. */
  readonly columns: Value[][];
  private readonly ids: string[] = [];
  private readonly newestBefore: number[] = [];
  /** Transaction id -> sequence. */
  private readonly sequences = new Map<string, number>();
  /** Sequence of the first kept event. */
  private base = 0;
  private newestUs = 0;

  constructor(private readonly layout: Layout) {
    this.columns = layout.columns.map(() => []);
  }

  /** Adds an event unless its transaction id is there or it is too late to be in any window. */
  append(transactionId: string, eventUs: number, values: readonly Value[]): void {
    if (this.sequences.has(transactionId) || eventUs < this.newestUs - this.layout.keepUs) {
      return;
    }
    if (this.times.length >= 3 * this.layout.maxEvents) {
      this.drop(this.times.length - 2 * this.layout.maxEvents);
    }
    this.sequences.set(transactionId, this.base + this.times.length);
    this.times.push(eventUs);
    this.ids.push(transactionId);
    this.newestBefore.push(this.newestUs);
    this.newestUs = Math.max(this.newestUs, eventUs);
    this.layout.columns.forEach(({ at, scale }, i) => {
      const value = values[at] ?? null;
      this.columns[i]?.push(typeof value === "number" ? roundHalfEven(value * scale) : value);
    });
  }

  /** The history before a payment of this transaction id. */
  before(transactionId: string): PriorHistory {
    const sequence = this.sequences.get(transactionId);
    const until = sequence === undefined ? this.times.length : sequence - this.base;
    return {
      of: this,
      from: Math.max(0, until - this.layout.maxEvents),
      until,
      newestUs: sequence === undefined ? this.newestUs : (this.newestBefore[until] ?? 0),
      repeated: sequence !== undefined,
    };
  }

  private drop(count: number): void {
    this.base += count;
    this.times.splice(0, count);
    this.newestBefore.splice(0, count);
    for (const id of this.ids.splice(0, count)) {
      this.sequences.delete(id);
    }
    for (const column of this.columns) {
      column.splice(0, count);
    }
  }
}

/** The histories of one layout, by the entity's id. */
export class Histories {
  private readonly stored = new Map<string, Stored>();

  constructor(readonly layout: Layout) {}

  /** Adds a payment, if it has the entity. */
  append(transactionId: string, eventUs: number, values: readonly Value[]): void {
    const id = values[this.layout.idAt];
    if (typeof id !== "string") {
      return;
    }
    let stored = this.stored.get(id);
    if (stored === undefined) {
      stored = new Stored(this.layout);
      this.stored.set(id, stored);
    }
    stored.append(transactionId, eventUs, values);
  }

  /** The history of an entity before a payment. */
  before(id: string, transactionId: string): PriorHistory {
    return (this.stored.get(id) ?? new Stored(this.layout)).before(transactionId);
  }
}
