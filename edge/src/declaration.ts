/**
 * A feature declaration in its canonical JSON form (`fraud.core.declaration`), as `serving.json` carries it.
 *
 * Its rules were checked when the version was trained. Here its shape is checked, and that every kind of feature is one
 * that this scorer computes: an export of a later platform is refused, never computed differently.
 */

import { US_PER_DAY, US_PER_HOUR, US_PER_SECOND } from "./contract.ts";
import { type DeclaredColumn, RefusedError } from "./public.ts";

export interface Entity {
  id: string;
  /** 0 without window features, as `keepUs`. */
  maxEvents: number;
  keepUs: number;
}

interface Feature {
  name: string;
  /** What a null becomes: a number or the name of a feature. */
  default: number | string;
  input: boolean;
  /** Group of the reasons. */
  group: string;
}

export interface RequestFeature extends Feature {
  kind: "request";
  op: "column" | "hour_of_day" | "day_of_week" | "missing" | "ratio" | "difference" | "hour_between" | "day_in";
  column: string;
  of: string;
  by: string;
  minus: string;
  first: number;
  until: number;
  days: readonly number[];
}

export type Aggregate = (typeof AGGREGATES)[number];

export interface WindowFeature extends Feature {
  kind: "window";
  entity: string;
  aggregate: Aggregate;
  column: string;
  value: string | null;
  windowUs: number;
}

export interface DailyFeature extends Feature {
  kind: "daily";
  entity: string;
  /** Value while no snapshot is published. */
  empty: number | null;
}

export type AnyFeature = RequestFeature | WindowFeature | DailyFeature;

export interface Declaration {
  columns: ReadonlyMap<string, DeclaredColumn>;
  entities: ReadonlyMap<string, Entity>;
  features: readonly AnyFeature[];
}

const OPS = [
  "column",
  "hour_of_day",
  "day_of_week",
  "missing",
  "ratio",
  "difference",
  "hour_between",
  "day_in",
] as const;
const AGGREGATES = [
  "count", "sum", "mean", "min", "max", "distinct", "seconds_since_last", "share", "matches", "same_as_last",
] as const; // biome-ignore format: one line per row of the table
const ZERO_WITHOUT_EVENTS = new Set(["count", "sum", "distinct", "matches"]);
const TYPES = ["number", "flag", "category", "id"] as const;
const UNITS_US = { s: US_PER_SECOND, m: 60 * US_PER_SECOND, h: US_PER_HOUR, d: US_PER_DAY };
const BUILT_IN: readonly [string, DeclaredColumn][] = [
  ["user_id", { type: "id" }],
  ["merchant_id", { type: "id" }],
  ["amount", { type: "number", unit: "USD", min: 0, max: 1e9, decimals: 4 }],
];

type Json = Readonly<Record<string, unknown>>;

/** Value of a window feature without any event; null is null. */
export function emptyOf(feature: WindowFeature): number | null {
  return ZERO_WITHOUT_EVENTS.has(feature.aggregate) ? 0 : null;
}

/** Whether the feature's value is given rather than derived from other features. */
export function isBase(feature: AnyFeature): boolean {
  return feature.kind !== "request" || ["column", "hour_of_day", "day_of_week"].includes(feature.op);
}

/** The values of the category column that the feature is; () for another feature. */
export function categoriesOf(declaration: Declaration, feature: AnyFeature): readonly string[] {
  const column = feature.kind === "request" && feature.op === "column" ? declaration.columns.get(feature.column) : null;
  return column?.type === "category" ? valuesOf(column) : [];
}

/** The values of a category column. */
export function valuesOf(column: DeclaredColumn): readonly string[] {
  return column.values ?? [unknownOf(column)];
}

/** What a text outside of the values of a category column becomes. */
export function unknownOf(column: DeclaredColumn): string {
  return column.unknown ?? "other";
}

/** Reads the declaration of `serving.json`. Throws RefusedError naming the part. */
export function readDeclaration(written: unknown): Declaration {
  const root = object(written, "declaration");
  const columns = new Map<string, DeclaredColumn>(BUILT_IN);
  for (const [name, column] of Object.entries(object(root["columns"], "columns"))) {
    columns.set(name, readColumn(object(column, `columns.${name}`), `columns.${name}`));
  }
  const entities = new Map<string, Entity>();
  for (const [name, entity] of Object.entries(object(root["entities"], "entities"))) {
    entities.set(name, readEntity(object(entity, `entities.${name}`), `entities.${name}`, columns));
  }
  const features = list(root["features"], "features").map((feature, i) =>
    readFeature(object(feature, `features.${i}`), `features.${i}`, columns, entities),
  );
  const names = new Set(features.map((feature) => feature.name));
  for (const feature of features) {
    const needs = feature.kind === "request" ? [feature.of, feature.by, feature.minus] : [];
    for (const name of [...needs, feature.default]) {
      if (typeof name === "string" && name !== "" && !names.has(name)) {
        throw refused(`features.${feature.name}`, "the name of a feature", name);
      }
    }
  }
  return { columns, entities, features };
}

function readColumn(written: Json, path: string): DeclaredColumn {
  const column: DeclaredColumn = { type: oneOf(TYPES, written["type"], `${path}.type`) };
  if (column.type === "number") {
    column.unit = written["unit"] === "" ? "" : text(written["unit"], `${path}.unit`);
    column.min = finite(written["min"], `${path}.min`);
    column.max = finite(written["max"], `${path}.max`);
    if (written["decimals"] !== undefined) {
      column.decimals = integer(written["decimals"], `${path}.decimals`, 0, 6);
    }
  }
  if (column.type === "category") {
    column.unknown = text(written["unknown"], `${path}.unknown`);
    column.values = list(written["values"], `${path}.values`).map((value) => text(value, `${path}.values`));
    if (!column.values.includes(column.unknown)) {
      throw refused(`${path}.unknown`, "one of the values", column.unknown);
    }
    if (written["learn"] !== undefined) {
      column.learn = integer(written["learn"], `${path}.learn`, 1, 200);
    }
  }
  return column;
}

function readEntity(written: Json, path: string, columns: ReadonlyMap<string, DeclaredColumn>): Entity {
  const id = text(written["id"], `${path}.id`);
  if (columns.get(id)?.type !== "id") {
    throw refused(`${path}.id`, "a column of type id", id);
  }
  const { max_events: maxEvents, keep } = written;
  return {
    id,
    maxEvents: maxEvents === null ? 0 : integer(maxEvents, `${path}.max_events`, 1, 4_096),
    keepUs: keep === null ? 0 : duration(keep, `${path}.keep`),
  };
}

function readFeature(
  written: Json,
  path: string,
  columns: ReadonlyMap<string, DeclaredColumn>,
  entities: ReadonlyMap<string, Entity>,
): AnyFeature {
  const kind = oneOf(["request", "window", "daily"] as const, written["kind"], `${path}.kind`);
  const column = optionalText(written["column"], `${path}.column`);
  if (column !== "" && !columns.has(column)) {
    throw refused(`${path}.column`, "a declared column", column);
  }
  const entity = kind === "request" ? "" : text(written["entity"], `${path}.entity`);
  if (kind !== "request" && !entities.has(entity)) {
    throw refused(`${path}.entity`, "a declared entity", entity);
  }
  const nulls = written["default"];
  const common = {
    name: text(written["name"], `${path}.name`),
    default: typeof nulls === "string" ? nulls : finite(nulls, `${path}.default`),
    input: written["input"] !== false,
    group: optionalText(written["group"], `${path}.group`) || (kind === "request" ? column || "time" : entity),
  };
  if (kind === "daily") {
    const aggregate = text(written["aggregate"], `${path}.aggregate`);
    return { ...common, kind, entity, empty: ZERO_WITHOUT_EVENTS.has(aggregate) ? 0 : null };
  }
  if (kind === "window") {
    return readWindow({ ...common, kind, entity, column }, written, path, entities.get(entity));
  }
  const op = oneOf(OPS, written["op"], `${path}.op`);
  const days = written["days"] === undefined ? [] : list(written["days"], `${path}.days`);
  return {
    ...common,
    kind,
    op,
    column,
    of: optionalText(written["of"], `${path}.of`),
    by: optionalText(written["by"], `${path}.by`),
    minus: optionalText(written["minus"], `${path}.minus`),
    first: integer(written["first"] ?? 0, `${path}.first`, 0, 24),
    until: integer(written["until"] ?? 0, `${path}.until`, 0, 24),
    days: days.map((day) => integer(day, `${path}.days`, 0, 6)),
  };
}

function readWindow(
  common: Omit<WindowFeature, "aggregate" | "value" | "windowUs">,
  written: Json,
  path: string,
  entity: Entity | undefined,
): WindowFeature {
  const aggregate = oneOf(AGGREGATES, written["aggregate"], `${path}.aggregate`);
  if (common.column === "" && aggregate !== "count" && aggregate !== "seconds_since_last") {
    throw refused(`${path}.column`, "a declared column", "none");
  }
  if (!entity?.maxEvents || !entity.keepUs) {
    throw refused(`entities.${common.entity}`, "max_events and keep", null);
  }
  const value = optionalText(written["value"], `${path}.value`) || null;
  return { ...common, aggregate, value, windowUs: duration(written["window"], `${path}.window`) };
}

function refused(path: string, expected: string, got: unknown): RefusedError {
  return new RefusedError(
    "features",
    `serving.json: declaration: ${path}: expected ${expected}, got ${JSON.stringify(got) ?? "nothing"}; ` +
      "this scorer and the model version were built by different versions of the platform",
  );
}

function object(value: unknown, path: string): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw refused(path, "an object", value);
  }
  return value as Json;
}

function list(value: unknown, path: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length === 0) {
    throw refused(path, "a list that is not empty", value);
  }
  return value;
}

function text(value: unknown, path: string): string {
  if (typeof value !== "string" || value === "") {
    throw refused(path, "a text", value);
  }
  return value;
}

function optionalText(value: unknown, path: string): string {
  return value === undefined || value === null ? "" : text(value, path);
}

function finite(value: unknown, path: string): number {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw refused(path, "a number", value);
  }
  return value;
}

function integer(value: unknown, path: string, least: number, most: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < least || value > most) {
    throw refused(path, `a whole number from ${least} to ${most}`, value);
  }
  return value;
}

function oneOf<T extends string>(allowed: readonly T[], value: unknown, path: string): T {
  const found = allowed.find((name) => name === value);
  if (found === undefined) {
    throw refused(path, `one of ${allowed.join(", ")}`, value);
  }
  return found;
}

function duration(value: unknown, path: string): number {
  const found = /^([1-9][0-9]{0,5})([smhd])$/.exec(text(value, path));
  if (found === null) {
    throw refused(path, "a duration such as 90s, 15m, 1h or 7d", value);
  }
  return Number(found[1]) * UNITS_US[found[2] as keyof typeof UNITS_US];
}
