/**
 * The float32 vector of a model from the base values of a payment (`fraud.core.vector`).
 *
 * Base values (hour, weekday, columns, window and daily features), imputation of nulls, derived features. Values are
 * doubles; NaN is null. The vector's numbers are rounded to float32 once, at the end.
 */

import { type AnyFeature, categoriesOf, type Declaration, isBase, type RequestFeature } from "./declaration.ts";

/** A larger quotient is null, as is one by 0. */
const MAX_QUOTIENT = 1e30;
const HOUR = 0;
const WEEKDAY = 1;
const TIME: Readonly<Record<string, number>> = { hour_of_day: HOUR, day_of_week: WEEKDAY };

/** A base value: what a vector is computed from. */
export interface Input {
  name: string;
  /** For the reasons of a decision. */
  group: string;
  /** The values of a category, whose base value is an index into them. */
  categories: readonly string[];
}

type Step = (slots: Float64Array) => void;

/** The vector of a declaration. */
export class Vector {
  /** The base values in order: hour, weekday, then columns, window and daily features in declared order. */
  readonly inputs: readonly Input[];
  /** The columns of the vector. */
  readonly names: readonly string[];
  /** The features of `inputs` after hour and weekday. */
  readonly base: readonly AnyFeature[];
  private readonly slots: Float64Array;
  private readonly steps: readonly Step[];
  /** [position in the vector, slot] of the numbers. */
  private readonly numbers: readonly [number, number][];
  /** [first position, slot] of the categories. */
  private readonly blocks: readonly [number, number][];

  constructor(declaration: Declaration) {
    const { features } = declaration;
    this.base = features.filter((feature) => isBase(feature) && timeSlot(feature) === undefined);
    const groupOf = (op: string) => features.find((f) => f.kind === "request" && f.op === op)?.group ?? "time";
    this.inputs = [
      { name: "hour_of_day", group: groupOf("hour_of_day"), categories: [] },
      { name: "day_of_week", group: groupOf("day_of_week"), categories: [] },
      ...this.base.map((f) => ({ name: f.name, group: f.group, categories: categoriesOf(declaration, f) })),
    ];
    const slotOf = new Map<string, number>();
    for (const feature of [...this.base, ...features.filter((f) => !isBase(f))]) {
      slotOf.set(feature.name, 2 + slotOf.size);
    }
    this.slots = new Float64Array(2 + slotOf.size);
    for (const feature of features) {
      const slot = timeSlot(feature);
      if (slot !== undefined) {
        slotOf.set(feature.name, slot);
      }
    }
    this.steps = stepsOf(declaration, slotOf);
    const numbers: [number, number][] = [];
    const blocks: [number, number][] = [];
    const names: string[] = [];
    for (const feature of features.filter((f) => f.input)) {
      const categories = categoriesOf(declaration, feature);
      const slot = slotOf.get(feature.name) ?? 0;
      if (categories.length > 0) {
        blocks.push([names.length, slot]);
        names.push(...categories.map((value) => `${feature.name}_${value}`));
      } else {
        numbers.push([names.length, slot]);
        names.push(feature.name);
      }
    }
    this.names = names;
    this.numbers = numbers;
    this.blocks = blocks;
  }

  /** Writes the vector of `base` (in the order of `inputs`; null is null) to `out` from `offset`; it must be zero there. */
  write(out: Float32Array, offset: number, base: readonly (number | null)[]): void {
    const { slots } = this;
    for (let i = 0; i < base.length; i++) {
      slots[i] = base[i] ?? Number.NaN;
    }
    for (const step of this.steps) {
      step(slots);
    }
    for (const [position, slot] of this.numbers) {
      out[offset + position] = slots[slot] ?? Number.NaN;
    }
    for (const [first, slot] of this.blocks) {
      out[offset + first + (slots[slot] ?? 0)] = 1;
    }
  }
}

function timeSlot(feature: AnyFeature): number | undefined {
  return feature.kind === "request" ? TIME[feature.op] : undefined;
}

/** Names of the features from whose values this feature's value is computed. */
function dependencies(feature: AnyFeature): string[] {
  const found = typeof feature.default === "string" ? [feature.default] : [];
  if (feature.kind === "request") {
    found.push(...[feature.of, feature.by, feature.minus].filter((name) => name !== ""));
  }
  return found;
}

/** First `missing`, which reads values before imputation; then each feature after those that it needs. */
function stepsOf(declaration: Declaration, slotOf: ReadonlyMap<string, number>): Step[] {
  const slot = (name: string) => slotOf.get(name) ?? 0;
  const steps: Step[] = [];
  const done = new Set<string>();
  let left: AnyFeature[] = [];
  for (const feature of declaration.features) {
    if (feature.kind === "request" && feature.op === "missing") {
      const [target, of] = [slot(feature.name), slot(feature.of)];
      steps.push((slots) => {
        slots[target] = Number.isNaN(slots[of]) ? 1 : 0;
      });
      done.add(feature.name);
    } else {
      left.push(feature);
    }
  }
  while (left.length > 0) {
    const ready = left.filter((feature) => dependencies(feature).every((name) => done.has(name)));
    if (ready.length === 0) {
      throw new Error(`features that need each other: ${left.map((feature) => feature.name).join(", ")}`);
    }
    for (const feature of ready) {
      steps.push(...stepsOfFeature(declaration, feature, slot));
    }
    for (const feature of ready) {
      done.add(feature.name);
    }
    left = left.filter((feature) => !done.has(feature.name));
  }
  return steps;
}

function stepsOfFeature(declaration: Declaration, feature: AnyFeature, slot: (name: string) => number): Step[] {
  const target = slot(feature.name);
  if (feature.kind === "request" && !isBase(feature)) {
    return feature.op === "ratio"
      ? [derived(feature, target, slot), imputed(feature, target, slot)]
      : [derived(feature, target, slot)];
  }
  if (timeSlot(feature) !== undefined || categoriesOf(declaration, feature).length > 0) {
    return [];
  }
  return [imputed(feature, target, slot)];
}

/** Replaces a null. */
function imputed(feature: AnyFeature, target: number, slot: (name: string) => number): Step {
  if (typeof feature.default === "string") {
    const other = slot(feature.default);
    return (slots) => {
      if (Number.isNaN(slots[target])) {
        slots[target] = slots[other] ?? Number.NaN;
      }
    };
  }
  const constant = feature.default;
  return (slots) => {
    if (Number.isNaN(slots[target])) {
      slots[target] = constant;
    }
  };
}

function derived(feature: RequestFeature, target: number, slot: (name: string) => number): Step {
  const [of, by, minus] = [slot(feature.of), slot(feature.by), slot(feature.minus)];
  const { first, until } = feature;
  const days = new Set(feature.days);
  switch (feature.op) {
    case "ratio":
      return (slots) => {
        slots[target] = divided(slots[of] ?? Number.NaN, slots[by] ?? Number.NaN);
      };
    case "difference":
      return (slots) => {
        slots[target] = (slots[of] ?? Number.NaN) - (slots[minus] ?? Number.NaN);
      };
    case "day_in":
      return (slots) => {
        slots[target] = days.has(slots[WEEKDAY] ?? -1) ? 1 : 0;
      };
    default: // hour_between
      return (slots) => {
        const hour = slots[HOUR] ?? -1;
        const inside = first <= until ? first <= hour && hour < until : hour >= first || hour < until;
        slots[target] = inside ? 1 : 0;
      };
  }
}

function divided(of: number, by: number): number {
  const quotient = of / by;
  return by !== 0 && Math.abs(quotient) <= MAX_QUOTIENT ? quotient : Number.NaN;
}
