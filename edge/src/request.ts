/** Validation of a payment, as serving's `RequestType` does it: the same fields, bounds, rounding and errors. */

import {
  dayOfWeek,
  hourOfDay,
  idText,
  lengthOf,
  MAX_AMOUNT,
  MAX_ID_LENGTH,
  MIN_EVENT_US,
  parseTime,
  roundHalfEven,
  scaleOf,
  UNITS_PER_USD,
} from "./contract.ts";
import { type Declaration, unknownOf, valuesOf } from "./declaration.ts";
import { ContractError, type DeclaredColumn, type Value } from "./public.ts";
import * as shortRequest from "./shortRequest.ts";

/** A payment that satisfies the contract, in the platform's units. */
export interface Payment {
  transactionId: string | null;
  /** Event time, us. */
  eventUs: number | null;
  hour: number;
  weekday: number;
  /** Checked values in the order of `RequestType.names`; null is null. */
  values: readonly Value[];
  /** `transaction_velocity`; null if it is not given or the payment has a user. */
  velocity: number | null;
}

type Given = Readonly<Record<string, unknown>>;
/** Checks the type and bounds of a value that is not null. */
type TypeCheck = (value: unknown, field: string) => void;
/** The value that is used instead of a value that is not null. */
type Conversion = (value: Value, field: string) => Value;

interface Column {
  name: string;
  convert: Conversion | null;
  /** What null becomes. */
  missing: Value;
}

const WITH_USER = ["transaction_id", "merchant_id", "event_timestamp"] as const;

/** The type of a payment for one version. */
export class RequestType {
  /** The columns of a payment: the built-in ones, then the declared ones by name. */
  readonly names: readonly string[];
  private readonly types = new Map<string, TypeCheck>();
  private readonly columns: readonly Column[];

  constructor(declaration: Declaration) {
    const builtIn = ["user_id", "merchant_id", "amount"];
    const declared = [...declaration.columns.keys()].filter((name) => !builtIn.includes(name)).sort();
    this.names = [...builtIn, ...declared];
    for (const [name, check] of BUILT_IN_TYPES) {
      this.types.set(name, check);
    }
    for (const [name, column] of Object.entries(shortRequest.UNUSED)) {
      this.types.set(name, typeOf(column));
    }
    const columns: Column[] = [
      { name: "user_id", convert: ownId, missing: null },
      { name: "merchant_id", convert: ownId, missing: null },
    ];
    for (const name of declared) {
      const column = declaration.columns.get(name);
      if (column !== undefined) {
        this.types.set(name, typeOf(column));
        const missing = column.type === "category" ? unknownOf(column) : null;
        columns.push({ name, convert: conversionOf(column), missing });
      }
    }
    this.columns = columns;
  }

  /** Checks a payment whose event time must not be after `latestUs` (us). Throws ContractError. */
  validated(transaction: unknown, latestUs: number): Payment {
    const given = this.typed(transaction);
    const amount = amountOf(given["amount"] as number);
    const transactionId = nullable(given["transaction_id"]);
    const id = transactionId === null ? null : (ownId(transactionId, "transaction_id") as string);
    const values: Value[] = [];
    for (const { name, convert, missing } of this.columns) {
      const value = nullable(given[name]);
      values.push(value === null ? missing : convert === null ? value : convert(value, name));
    }
    values.splice(2, 0, amount);
    if (values[0] !== null) {
      for (const field of WITH_USER) {
        if (nullable(given[field]) === null) {
          throw new ContractError(field, "is required with user_id");
        }
      }
    }
    const [eventUs, hour, weekday] = momentOf(given, latestUs);
    const velocity = values[0] === null ? (nullable(given[shortRequest.VELOCITY]) as number | null) : null;
    return { transactionId: id, eventUs, hour, weekday, values, velocity };
  }

  /** The payment, whose fields have their types and bounds. */
  private typed(transaction: unknown): Given {
    if (typeof transaction !== "object" || transaction === null || Array.isArray(transaction)) {
      throw new ContractError("", `Expected \`object\`, got \`${typeName(transaction)}\``);
    }
    const given = transaction as Given;
    for (const field of Object.keys(given)) {
      const value = given[field];
      const check = this.types.get(field);
      if (check === undefined) {
        throw new ContractError(field, `Object contains unknown field \`${field}\``);
      }
      if (value !== null && value !== undefined) {
        check(value, field);
      }
    }
    if (given["amount"] === null || given["amount"] === undefined) {
      const reason =
        given["amount"] === null ? "Expected `float`, got `null`" : "Object missing required field `amount`";
      throw new ContractError("amount", reason);
    }
    return given;
  }
}

function nullable(value: unknown): Value {
  return value === undefined ? null : (value as Value);
}

function typeName(value: unknown): string {
  if (value === null) {
    return "null";
  }
  if (typeof value === "number") {
    return Number.isInteger(value) ? "int" : "float";
  }
  return (
    { string: "str", boolean: "bool", object: Array.isArray(value) ? "array" : "object" }[typeof value as string] ??
    typeof value
  );
}

function number(least: number, most: number, exclusive = false): TypeCheck {
  return (value, field) => {
    if (typeof value !== "number") {
      throw new ContractError(field, `Expected \`float\`, got \`${typeName(value)}\``);
    }
    if (!Number.isFinite(value)) {
      throw new ContractError(field, "Number out of range");
    }
    if (exclusive ? value <= least : value < least) {
      throw new ContractError(field, `Expected \`float\` ${exclusive ? ">" : ">="} ${least}`);
    }
    if (value > most) {
      throw new ContractError(field, `Expected \`float\` <= ${most}`);
    }
  };
}

function whole(most: number): TypeCheck {
  return (value, field) => {
    if (typeof value !== "number" || !Number.isInteger(value)) {
      throw new ContractError(field, `Expected \`int\`, got \`${typeName(value)}\``);
    }
    if (value < 0 || value > most) {
      throw new ContractError(field, `Expected \`int\` ${value < 0 ? ">= 0" : `<= ${most}`}`);
    }
  };
}

function text(least: number, most: number): TypeCheck {
  return (value, field) => {
    if (typeof value !== "string") {
      throw new ContractError(field, `Expected \`str\`, got \`${typeName(value)}\``);
    }
    if (value.length < least) {
      throw new ContractError(field, `Expected \`str\` of length >= ${least}`);
    }
    if (lengthOf(value) > most) {
      throw new ContractError(field, `Expected \`str\` of length <= ${most}`);
    }
    if (!isWellFormed(value)) {
      throw new ContractError(field, "has half of a surrogate pair, which UTF-8 cannot represent");
    }
  };
}

/** Whether a text has no lone surrogates. */
function isWellFormed(value: string): boolean {
  return !/[\ud800-\udfff]/.test(value) || !/\p{Surrogate}/u.test(value);
}

const flag: TypeCheck = (value, field) => {
  if (typeof value !== "boolean") {
    throw new ContractError(field, `Expected \`bool\`, got \`${typeName(value)}\``);
  }
};

const id = text(1, MAX_ID_LENGTH);
const BUILT_IN_TYPES: readonly [string, TypeCheck][] = [
  ["amount", number(0.5 / UNITS_PER_USD, MAX_AMOUNT, true)],
  ["transaction_id", id],
  ["user_id", id],
  ["merchant_id", id],
  ["event_timestamp", text(0, Number.MAX_SAFE_INTEGER)],
  ["hour_of_day", whole(23)],
  ["day_of_week", whole(6)],
  [shortRequest.VELOCITY, number(0, shortRequest.MAX_VELOCITY)],
];

function typeOf(column: DeclaredColumn): TypeCheck {
  if (column.type === "number") {
    return number(column.min ?? Number.NEGATIVE_INFINITY, column.max ?? Number.POSITIVE_INFINITY);
  }
  return column.type === "flag" ? flag : text(0, MAX_ID_LENGTH);
}

function conversionOf(column: DeclaredColumn): Conversion | null {
  if (column.type === "number") {
    if (column.decimals === undefined) {
      return null;
    }
    const scale = scaleOf(column.decimals);
    return (value) => roundHalfEven((value as number) * scale) / scale;
  }
  if (column.type === "category") {
    const known = new Set(valuesOf(column));
    const unknown = unknownOf(column);
    const closed = column.learn === undefined;
    return (value, field) => {
      if (known.has(value as string)) {
        return value;
      }
      const found = declaredId(value, field);
      return found === null || (closed && !known.has(found as string)) ? unknown : found;
    };
  }
  return column.type === "id" ? declaredId : null;
}

/** An id that must be one. */
function ownId(value: Value, field: string): Value {
  const found = checkedId(value as string, field);
  if (!found) {
    throw new ContractError(
      field,
      `expected an id, got ${JSON.stringify(value)}: leave the field out if there is none`,
    );
  }
  return found;
}

/** An id; null for an empty text and a word that stands for a missing id. */
function declaredId(value: Value, field: string): Value {
  return checkedId(value as string, field) || null;
}

function checkedId(value: string, field: string): string | null {
  try {
    return idText(value);
  } catch (error) {
    throw new ContractError(field, `${(error as Error).message}, got ${JSON.stringify(value)}`);
  }
}

/** USD, rounded to units. */
function amountOf(amount: number): number {
  const units = roundHalfEven(amount * UNITS_PER_USD);
  if (units === 0) {
    throw new ContractError("amount", `amount must be at least ${1 / UNITS_PER_USD} USD once rounded, got ${amount}`);
  }
  return units / UNITS_PER_USD;
}

/** Event time (us) or null, hour and weekday. */
function momentOf(given: Given, latestUs: number): [number | null, number, number] {
  const hour = nullable(given["hour_of_day"]) as number | null;
  const weekday = nullable(given["day_of_week"]) as number | null;
  const timestamp = nullable(given["event_timestamp"]) as string | null;
  if (timestamp === null) {
    if (hour === null || weekday === null) {
      const missing = hour === null ? "hour_of_day" : "day_of_week";
      throw new ContractError(missing, "hour_of_day and day_of_week are required without event_timestamp");
    }
    return [null, hour, weekday];
  }
  const eventUs = parseTime(timestamp);
  if (eventUs === null) {
    throw new ContractError(
      "event_timestamp",
      `expected an RFC 3339 time with a zone, got ${JSON.stringify(timestamp)}`,
    );
  }
  if (eventUs < MIN_EVENT_US) {
    throw new ContractError("event_timestamp", `must not be before 2000-01-01, got ${timestamp}`);
  }
  if (eventUs > latestUs) {
    throw new ContractError("event_timestamp", `must not be ahead of the clock by more than a day, got ${timestamp}`);
  }
  if (hour !== null && hour !== hourOfDay(eventUs)) {
    throw new ContractError("hour_of_day", `event_timestamp has hour ${hourOfDay(eventUs)} (UTC), got ${hour}`);
  }
  if (weekday !== null && weekday !== dayOfWeek(eventUs)) {
    const own = dayOfWeek(eventUs);
    throw new ContractError("day_of_week", `event_timestamp has day ${own} (Monday = 0, UTC), got ${weekday}`);
  }
  return [eventUs, hourOfDay(eventUs), dayOfWeek(eventUs)];
}
