/** The controls of a payment: one for each declared column, so that a new feature needs no change of the page. */

import type { DeclaredColumn, Scorer, Transaction, Value } from "../src/public.ts";
import { VELOCITY, VELOCITY_FEATURE } from "../src/shortRequest.ts";
import { element } from "./dom.ts";

/** Range of the slider of the amount, USD; the field next to it takes any amount. */
const SLIDER_USD: readonly [number, number] = [0.5, 50_000];
const STEPS = 1_000;
const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/** A control. `read` shows the payment's value; `wrong` marks it. */
interface Control {
  fields: readonly string[];
  node: HTMLElement;
  read: (payment: Transaction) => void;
  wrong: (marked: boolean) => void;
}

type Change = (changes: Partial<Transaction>) => void;

/** All controls; a change calls `change` with the changed fields (null: left out). */
export class Controls {
  private readonly controls: readonly Control[];

  constructor(scorer: Scorer, main: HTMLElement, ids: HTMLElement, change: Change) {
    const declared = Object.entries(scorer.columns).filter(
      ([name]) => !["amount", "user_id", "merchant_id"].includes(name),
    );
    const shown = [
      amount(change),
      hour(change),
      weekday(change),
      ...(takesVelocity(scorer) ? [velocity(change)] : []),
      ...declared.filter(([, column]) => column.type !== "id").map(([name, column]) => ofColumn(name, column, change)),
    ];
    const texts = ["transaction_id", "user_id", "merchant_id", "event_timestamp"];
    const more = [...texts, ...declared.filter(([, column]) => column.type === "id").map(([name]) => name)].map(
      (name) => text(name, change),
    );
    main.append(...shown.map((control) => control.node));
    ids.append(...more.map((control) => control.node));
    this.controls = [...shown, ...more];
  }

  /** Shows a payment. */
  read(payment: Transaction): void {
    for (const control of this.controls) {
      control.read(payment);
    }
  }

  /** Marks the control of a field; "" marks none. */
  mark(field: string): void {
    for (const control of this.controls) {
      control.wrong(control.fields.includes(field));
    }
  }
}

/** Whether a payment without a user can give the number of payments in the hour before. */
export function takesVelocity(scorer: Scorer): boolean {
  return Object.values(scorer.groups).some((inputs) => inputs.includes(VELOCITY_FEATURE));
}

/** Hour (UTC) of a payment; null if it states none. */
export function hourOf(payment: Transaction): number | null {
  const time = Date.parse(payment.event_timestamp ?? "");
  return Number.isNaN(time) ? (payment.hour_of_day ?? null) : new Date(time).getUTCHours();
}

/** The changes that move a payment to an hour (UTC) of the same day. */
export function atHour(payment: Transaction, value: number): Partial<Transaction> {
  const time = new Date(payment.event_timestamp ?? "");
  if (Number.isNaN(time.getTime())) {
    return { hour_of_day: value };
  }
  time.setUTCHours(value);
  return { event_timestamp: time.toISOString(), ...(payment.hour_of_day == null ? {} : { hour_of_day: value }) };
}

function labelled(label: string, ...inputs: readonly HTMLElement[]): HTMLElement {
  const content = inputs.length > 1 ? [element("div", { class: "row" }, ...inputs)] : inputs;
  return element("label", { class: "field" }, element("span", {}, label), ...content);
}

function marking(...inputs: readonly HTMLElement[]): (marked: boolean) => void {
  return (marked) => {
    for (const input of inputs) {
      input.setAttribute("aria-invalid", String(marked));
    }
  };
}

/** A slider and a field for a number. `place` and `value` convert between the slider's steps and the number. */
function numeric(
  name: string,
  label: string,
  place: (value: number) => number,
  value: (place: number) => number,
  change: Change,
): Control {
  const slider = element("input", {
    type: "range",
    min: "0",
    max: String(STEPS),
    step: "1",
    "aria-label": `${label}, slider`,
  });
  const field = element("input", { type: "number", step: "any", inputmode: "decimal", name, "aria-label": label });
  slider.addEventListener("input", () => {
    field.value = String(value(Number(slider.value)));
    change({ [name]: Number(field.value) });
  });
  field.addEventListener("input", () => change({ [name]: field.value === "" ? null : Number(field.value) }));
  return {
    fields: [name],
    node: labelled(label, slider, field),
    read: (payment) => {
      const given = payment[name];
      if (document.activeElement !== field) {
        field.value = typeof given === "number" ? String(given) : "";
      }
      slider.value = String(typeof given === "number" ? place(given) : 0);
    },
    wrong: marking(field),
  };
}

function amount(change: Change): Control {
  const [low, high] = SLIDER_USD.map(Math.log) as [number, number];
  return numeric(
    "amount",
    "amount, USD",
    (usd) => Math.round(((Math.log(Math.max(usd, 1e-9)) - low) / (high - low)) * STEPS),
    (place) => Number(Math.exp(low + (place / STEPS) * (high - low)).toPrecision(3)),
    change,
  );
}

function hour(change: Change): Control {
  const slider = element("input", {
    type: "range",
    min: "0",
    max: "23",
    step: "1",
    name: "hour_of_day",
    "aria-label": "hour",
  });
  const shown = element("output", {});
  let current: Transaction = { amount: 1 };
  slider.addEventListener("input", () => change(atHour(current, Number(slider.value))));
  return {
    fields: ["hour_of_day"],
    node: labelled("hour, UTC", slider, shown),
    read: (payment) => {
      current = payment;
      const value = hourOf(payment);
      slider.value = String(value ?? 0);
      shown.textContent = value === null ? "not given" : `${String(value).padStart(2, "0")}:00`;
    },
    wrong: marking(slider),
  };
}

/** The number of payments in the hour before; of a payment with a user it is that of the history. */
function velocity(change: Change): Control {
  const most = 30;
  const control = numeric(
    VELOCITY,
    "payments in the hour before",
    (count) => Math.round((count / most) * STEPS),
    (place) => Math.round((place / STEPS) * most),
    change,
  );
  const read = (payment: Transaction) => {
    control.node.hidden = Boolean(payment.user_id);
    control.read(payment);
  };
  return { ...control, read };
}

/** The weekday; a payment with an event time has that of its time. */
function weekday(change: Change): Control {
  const select = element(
    "select",
    { name: "day_of_week" },
    ...DAYS.map((day, i) => element("option", { value: String(i) }, day)),
  );
  select.addEventListener("input", () => change({ day_of_week: Number(select.value) }));
  const node = labelled("day", select);
  return {
    fields: ["day_of_week"],
    node,
    read: (payment) => {
      node.hidden = Boolean(payment.event_timestamp);
      select.value = String(payment.day_of_week ?? 0);
    },
    wrong: marking(select),
  };
}

function text(name: string, change: Change): Control {
  const field = element("input", { type: "text", name, autocomplete: "off", spellcheck: "false" });
  field.addEventListener("input", () => change({ [name]: field.value === "" ? null : field.value }));
  return {
    fields: [name],
    node: labelled(name, field),
    read: (payment) => {
      if (document.activeElement !== field) {
        field.value = typeof payment[name] === "string" ? String(payment[name]) : "";
      }
    },
    wrong: marking(field),
  };
}

function ofColumn(name: string, column: DeclaredColumn, change: Change): Control {
  if (column.type === "number") {
    const [least, most] = [column.min ?? 0, column.max ?? 1];
    // Squared, so that small values, which are frequent, have most of the slider.
    return numeric(
      name,
      `${name}, ${column.unit ?? ""}`,
      (value) => Math.round(Math.sqrt(Math.max(0, (value - least) / (most - least))) * STEPS),
      (place) => Number((least + (place / STEPS) ** 2 * (most - least)).toPrecision(3)),
      change,
    );
  }
  const values: readonly Value[] = column.type === "flag" ? [true, false] : (column.values ?? []);
  const options = [element("option", { value: "" }, column.type === "flag" ? "unknown" : "not given")];
  const select = element(
    "select",
    { name },
    ...options,
    ...values.map((value) => element("option", { value: String(value) }, String(value))),
  );
  select.addEventListener("input", () => {
    change({ [name]: values[select.selectedIndex - 1] ?? null });
  });
  return {
    fields: [name],
    node: labelled(name, select),
    read: (payment) => {
      const given = payment[name] ?? null;
      const known = values.indexOf(given);
      // A text that is not among the values is used as the unknown one.
      select.selectedIndex = given === null ? 0 : known >= 0 ? known + 1 : values.indexOf(column.unknown ?? null) + 1;
    },
    wrong: marking(select),
  };
}
