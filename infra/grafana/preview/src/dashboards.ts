/** The part of Grafana's dashboard model that the committed dashboards use, and the dashboards. */
import type { FieldConfigSource } from "@grafana/data";
import type { VizLegendOptions } from "@grafana/schema";

export interface Target {
  refId: string;
  expr: string;
  legendFormat: string;
  /** Min step, for example "1m". */
  interval?: string;
  instant?: boolean;
}

export interface Place {
  x: number;
  y: number;
  w: number;
  h: number;
}

export interface Row {
  id: number;
  type: "row";
  title: string;
  gridPos: Place;
}

interface PanelBase {
  id: number;
  title: string;
  description: string;
  gridPos: Place;
  targets: Target[];
  fieldConfig: FieldConfigSource;
  links: { title: string; url: string }[];
}

export interface StatPanel extends PanelBase {
  type: "stat";
  options: {
    reduceOptions: { calcs: string[] };
    textMode?: string;
    graphMode?: string;
    colorMode?: string;
    justifyMode?: string;
    text?: { titleSize?: number; valueSize?: number };
  };
}

export interface TimeSeriesPanel extends PanelBase {
  type: "timeseries";
  options: { legend: VizLegendOptions };
}

export type Panel = StatPanel | TimeSeriesPanel;

export interface Variable {
  name: string;
  label?: string;
  type: "query" | "datasource" | "custom";
  query: string | { query: string };
  hide?: number;
  includeAll?: boolean;
  allValue?: string;
  current?: { value: string | string[] };
}

export interface Dashboard {
  uid: string;
  title: string;
  description: string;
  panels: (Panel | Row)[];
  templating: { list: Variable[] };
  annotations: { list: { name: string; expr?: string; iconColor: string }[] };
}

const files = import.meta.glob<Dashboard>("../../dashboards/*.json", { eager: true, import: "default" });

/** The committed dashboards by name of the file. */
export const dashboards: ReadonlyMap<string, Dashboard> = new Map(
  Object.entries(files).map(([path, dashboard]) => [path.replace(/^.*\/|\.json$/g, ""), dashboard]),
);
