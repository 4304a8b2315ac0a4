/**
 * The scorer's public types. `fraud-scorer.d.ts` of an export is made from this module, so it imports nothing.
 */

/** A value of a column. */
export type Value = number | string | boolean | null;

/** A payment: the fields of `POST /predict`. `Scorer.declaration` lists the declared ones, which are optional. */
export interface Transaction {
  /** USD, above 0 and at most 1e9; rounded half to even to 1/10,000. */
  amount: number;
  transaction_id?: string | null;
  user_id?: string | null;
  merchant_id?: string | null;
  /** RFC 3339 with a zone. Required unless `hour_of_day` and `day_of_week` are given. */
  event_timestamp?: string | null;
  /** 0..23, UTC. */
  hour_of_day?: number | null;
  /** Monday = 0, UTC. */
  day_of_week?: number | null;
  [column: string]: Value | undefined;
}

/** Daily features by entity: every daily feature of the entity, null for a null. */
export type Daily = Readonly<Record<string, Readonly<Record<string, number | null>>>>;

/** A payment with what its features are computed from. */
export interface Row {
  transaction: Transaction;
  /**
   * Earlier payments in the order in which the server received them, of any entities, or a prepared `History`.
   * `[]`: there are none. Left out: they are not available; the answer is then marked `degraded` where the features
   * need them.
   */
  history?: readonly Transaction[] | History | null | undefined;
  daily?: Daily | null | undefined;
}

/** The contribution of one group of inputs to the difference from the reference payment's probability. */
export interface Reason {
  code: string;
  contribution: number;
  /** Values of the group's inputs. */
  values: Record<string, Value>;
  /** Values of the reference payment. */
  ordinary: Record<string, Value>;
}

/** The server's answer without `prediction_id`, since no prediction is logged. */
export interface Answer {
  transaction_id: string | null;
  /** `fraud_probability >= threshold`. */
  is_fraud: boolean;
  fraud_probability: number;
  threshold: number;
  model_version: string;
  /** The value that was used for each category. */
  categories: Record<string, string>;
  /** Source of the window features: the given history, the request's `transaction_velocity`, or none. */
  history: "store" | "request" | "none";
  /** True if the payment's entities have histories and none were given. */
  degraded: boolean;
  /** True if the payment's `transaction_id` is in the history. It is scored as at its first attempt. */
  repeated: boolean;
  /** The groups with the largest contributions, in descending order; with `explain` only. */
  reasons?: Reason[];
}

/** What a payment was scored with. */
export interface Features {
  /** Base values by name: hour, weekday, columns (a category is its index), window and daily features. */
  values: Record<string, number | null>;
  /** The model's input. */
  vector: Float32Array;
}

/** The stored histories of entities, as the online store keeps them. Create it with `Scorer.history`. */
export interface History {
  /** Adds a payment that comes after the others. Throws ContractError. */
  add(transaction: Transaction): void;
}

/** A column of the declaration, as its canonical JSON has it. */
export interface DeclaredColumn {
  type: "number" | "flag" | "category" | "id";
  unit?: string;
  min?: number;
  max?: number;
  decimals?: number;
  values?: readonly string[];
  learn?: number;
  unknown?: string;
}

/** A model version that passed verification. Create it with `load`. */
export interface Scorer {
  readonly modelVersion: string;
  readonly modelSha256: string;
  /** sha256 of manifest.json: identifies the export. */
  readonly manifestSha256: string;
  readonly featureHash: string;
  readonly threshold: number;
  /** Level of the ladder. */
  readonly level: string;
  /** The declared columns by name, with the categories that training found. */
  readonly columns: Readonly<Record<string, DeclaredColumn>>;
  /** Entity -> its id column. */
  readonly entities: Readonly<Record<string, string>>;
  /** Entity -> its daily features. */
  readonly dailyFeatures: Readonly<Record<string, readonly string[]>>;
  /** Group of the reasons -> its inputs. */
  readonly groups: Readonly<Record<string, readonly string[]>>;
  /** Scores a payment. Throws ContractError. */
  score(
    transaction: Transaction,
    history?: readonly Transaction[] | History | null,
    daily?: Daily | null,
    options?: { explain?: boolean },
  ): Promise<Answer>;
  /** Scores payments in one call of the model. They do not enter each other's histories. Throws ContractError. */
  scoreMany(rows: readonly Row[]): Promise<Answer[]>;
  /** The features of a payment. Throws ContractError. */
  features(row: Row): Features;
  /** A history that several calls of `score` use. Throws ContractError. */
  history(transactions?: readonly Transaction[]): History;
}

/** Where and how an export is loaded. */
export interface LoadOptions {
  /** Address of the exported folder; default: the folder of this module. */
  base?: string | URL;
  /** Reads a file of the folder; default: `fetch`, or the file system for a `file:` address in Node. */
  read?: (name: string) => Promise<Uint8Array>;
  /** Expected sha256 of manifest.json (hex), as `fraud export` printed it. */
  manifestSha256?: string;
  /** The clock in milliseconds; default: `Date.now`. A payment more than a day ahead of it is refused. */
  now?: () => number;
}

/** Reads, verifies and tests an export. Throws RefusedError; then nothing of it was used for an answer. */
export type Load = (options?: LoadOptions) => Promise<Scorer>;

/** A payment violates the contract. `field` is "" if no single field is invalid. */
export class ContractError extends Error {
  constructor(
    readonly field: string,
    readonly reason: string,
  ) {
    super(field ? `${field}: ${reason}` : reason);
    this.name = "ContractError";
  }
}

/** An export cannot be used. */
export class RefusedError extends Error {
  constructor(
    readonly kind: "missing" | "sha256" | "format" | "features" | "golden" | "runtime",
    message: string,
  ) {
    super(message);
    this.name = "RefusedError";
  }
}
