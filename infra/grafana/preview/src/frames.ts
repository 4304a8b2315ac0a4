/** Frames with units, thresholds, colors and names, as Grafana's panels get them. */
import {
  applyFieldOverrides,
  type DataFrame,
  FieldConfigOptionsRegistry,
  type FieldConfigPropertyItem,
  type FieldConfigSource,
  type GrafanaTheme2,
  ThresholdsMode,
} from "@grafana/data";
import type { Panel, TimeSeriesPanel } from "./dashboards.ts";

/** Grafana's defaults of a time series panel (public/app/plugins/panel/timeseries/config.ts). */
const LINE = {
  drawStyle: "line",
  lineInterpolation: "linear",
  lineWidth: 1,
  fillOpacity: 0,
  gradientMode: "none",
  showPoints: "auto",
  pointSize: 5,
  spanNulls: false,
  axisGridShow: true,
  axisPlacement: "auto",
  stacking: { mode: "none", group: "A" },
};

function property(id: string, path: string): FieldConfigPropertyItem {
  return {
    id,
    path,
    isCustom: id.startsWith("custom."),
    name: id,
    description: "",
    editor: () => null,
    override: () => null,
    process: (value: unknown) => value,
    shouldApply: () => true,
    settings: {},
  };
}

const STANDARD = ["unit", "min", "max", "decimals", "displayName", "color", "thresholds", "mappings", "noValue"];
const CUSTOM = [...Object.keys(LINE), "lineStyle", "hideFrom", "axisSoftMin", "axisSoftMax", "thresholdsStyle"];
const registry = new FieldConfigOptionsRegistry(() => [
  ...STANDARD.map((name) => property(name, name)),
  ...CUSTOM.map((name) => property(`custom.${name}`, name)),
]);

/** The panel's field configuration with Grafana's defaults. */
export function withDefaults(config: FieldConfigSource, panel: Panel): FieldConfigSource {
  // JSON has null for the first threshold's -Infinity.
  const thresholds = structuredClone(config.defaults.thresholds ?? { mode: ThresholdsMode.Absolute, steps: [] });
  thresholds.steps.forEach((step, index) => {
    step.value = index === 0 ? -Infinity : step.value;
  });
  const custom = { ...LINE, ...(config.defaults.custom as Record<string, unknown> | undefined) };
  return { ...config, defaults: { ...config.defaults, thresholds, ...(panel.type === "stat" ? {} : { custom }) } };
}

/** The frames with the panel's field configuration. */
export function configured(panel: Panel, data: DataFrame[], theme: GrafanaTheme2): DataFrame[] {
  return applyFieldOverrides({
    data,
    fieldConfig: withDefaults(panel.fieldConfig, panel),
    fieldConfigRegistry: registry,
    replaceVariables: (text) => text,
    theme,
    timeZone: "utc",
  });
}

/** The legend of a panel, with Grafana's defaults. */
export function legendOf(panel: TimeSeriesPanel): TimeSeriesPanel["options"]["legend"] {
  const defaults = { displayMode: "list", placement: "bottom", calcs: [], showLegend: true };
  return { ...defaults, ...panel.options.legend } as TimeSeriesPanel["options"]["legend"];
}
