/** Queries of Prometheus' HTTP API, as frames like those of Grafana's Prometheus data source. */
import { createDataFrame, type DataFrame, FieldType, type Labels } from "@grafana/data";
import type { Target } from "./dashboards.ts";

interface Series {
  metric: Labels;
  values: [number, string][];
}

/** The time range in seconds since 1970, and the interval between points. */
export interface Range {
  from: number;
  to: number;
  step: number;
}

async function get<T>(url: string, path: string, parameters: Record<string, string>): Promise<T> {
  const body = new URLSearchParams(parameters);
  const answer = await fetch(`${url}${path}?${body}`);
  const text = await answer.text();
  if (!answer.ok) {
    throw new Error(`${path}: expected status 200, got ${answer.status}: ${text.slice(0, 300)}`);
  }
  const found = JSON.parse(text) as { data: T };
  return found.data;
}

/** Values of a label of the series that match a selector, sorted. */
export async function labelValues(url: string, selector: string, label: string, range: Range): Promise<string[]> {
  const parameters = { "match[]": selector, start: `${range.from}`, end: `${range.to}` };
  return get(url, `/api/v1/label/${label}/values`, parameters);
}

/** Replaces `{{label}}` in a legend. */
function legendOf(format: string, labels: Labels): string {
  if (format) {
    return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label: string) => labels[label] ?? "");
  }
  const { __name__: name = "", ...rest } = labels;
  const pairs = Object.entries(rest).map(([label, value]) => `${label}="${value}"`);
  return pairs.length > 0 ? `${name}{${pairs.join(", ")}}` : name || "{}";
}

/** The value of each series of a query at the end of the range. */
export async function queryInstant(url: string, expr: string, target: Target, range: Range): Promise<DataFrame[]> {
  const { result } = await get<{ result: { metric: Labels; value: [number, string] }[] }>(url, "/api/v1/query", {
    query: expr,
    time: `${range.to}`,
  });
  return result.map(({ metric, value }) =>
    frame(target, metric, [range.to * 1000], [Number.parseFloat(value[1])], range),
  );
}

function frame(target: Target, labels: Labels, times: number[], values: (number | null)[], range: Range): DataFrame {
  const legend = legendOf(target.legendFormat, labels);
  const interval = range.step * 1000;
  return createDataFrame({
    refId: target.refId,
    name: legend,
    fields: [
      { name: "Time", type: FieldType.time, values: times, config: { interval } },
      { name: "Value", type: FieldType.number, labels, values, config: { displayNameFromDS: legend } },
    ],
  });
}

/** The series of a query over a range. Missing points are null, so that lines have gaps. */
export async function queryRange(url: string, expr: string, target: Target, range: Range): Promise<DataFrame[]> {
  // Points are multiples of the step, so that a reload gives the same ones. Grafana does the same.
  const start = Math.floor(range.from / range.step) * range.step;
  const end = Math.floor(range.to / range.step) * range.step;
  const { result } = await get<{ result: Series[] }>(url, "/api/v1/query_range", {
    query: expr,
    start: `${start}`,
    end: `${end}`,
    step: `${range.step}`,
  });
  const times: number[] = [];
  for (let at = start; at <= end; at += range.step) {
    times.push(at * 1000);
  }
  return result.map(({ metric, values }) => {
    const known = new Map(values.map(([at, value]) => [Math.round(at * 1000), Number.parseFloat(value)]));
    const points = times.map((at) => known.get(at) ?? null);
    return frame(target, metric, times, points, range);
  });
}
