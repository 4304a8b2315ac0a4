/** Values of a dashboard's variables, and their place in queries and links. */
import type { Variable } from "./dashboards.ts";
import { labelValues, type Range } from "./prometheus.ts";

/** Variable -> its value as it stands in a query. */
export type Values = ReadonlyMap<string, string>;

/** `timeInterval` of provisioning/datasources/prometheus.yml. */
const SCRAPE_S = 5;

/** The value of each variable: of `chosen` (the page's parameters `var-NAME`), else All where allowed, else the first. */
export async function resolve(
  url: string,
  variables: readonly Variable[],
  range: Range,
  chosen: URLSearchParams,
): Promise<Values> {
  const values = new Map<string, string>();
  for (const variable of variables) {
    const given = chosen.get(`var-${variable.name}`);
    values.set(variable.name, given ?? (await defaultValue(url, variable, range, values)));
  }
  return values;
}

async function defaultValue(url: string, variable: Variable, range: Range, known: Values): Promise<string> {
  if (variable.type === "datasource") {
    return String(variable.current?.value ?? "");
  }
  const query = typeof variable.query === "string" ? variable.query : variable.query.query;
  const found = /^label_values\((.+),\s*(\w+)\)$/.exec(query);
  if (!found?.[1] || !found[2]) {
    throw new Error(`variable ${variable.name}: expected label_values(SELECTOR, LABEL), got ${query}`);
  }
  if (variable.includeAll && variable.allValue) {
    return variable.allValue;
  }
  const options = await labelValues(url, interpolate(found[1], known), found[2], range);
  return variable.includeAll ? `(${options.join("|")})` : (options[0] ?? "");
}

/** Replaces `$name` and `${name}`. A name without a value stays. */
export function interpolate(text: string, values: Values): string {
  return text.replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced: string | undefined, bare: string | undefined) => {
    return values.get(braced ?? bare ?? "") ?? whole;
  });
}

/** Seconds of a duration such as "1m". */
function seconds(duration: string): number {
  const unit: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };
  const found = /^(\d+)([smhd])$/.exec(duration);
  const factor = unit[found?.[2] ?? ""];
  if (!found || factor === undefined) {
    throw new Error(`expected a duration such as 1m, got ${duration}`);
  }
  return Number(found[1]) * factor;
}

const NICE_S = [
  1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
];

/** Interval between points, in seconds: about one per pixel, and at least the min step. */
export function stepOf(from: number, to: number, pixels: number, minStep: string | undefined): number {
  const exact = (to - from) / pixels;
  const nice = NICE_S.find((step) => step >= exact) ?? 86_400;
  return Math.max(nice, minStep ? seconds(minStep) : SCRAPE_S);
}

/**
 * The variables that Grafana defines for each query.
 * https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
 */
export function builtIn(range: Range, minStep: string | undefined): Map<string, string> {
  const scrape = minStep ? seconds(minStep) : SCRAPE_S;
  const length = Math.round(range.to - range.from);
  return new Map([
    ["__interval", `${range.step}s`],
    ["__rate_interval", `${Math.max(range.step + scrape, 4 * scrape)}s`],
    ["__range", `${length}s`],
    ["__range_s", `${length}`],
  ]);
}
