/** One panel, drawn with Grafana's components. */
import {
  type DataFrame,
  dateTime,
  type FieldDisplay,
  getFieldDisplayValues,
  LoadingState,
  type TimeRange,
} from "@grafana/data";
import { VizOrientation } from "@grafana/schema";
import {
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  PanelChrome,
  TimeSeries,
  useTheme2,
  VizRepeater,
} from "@grafana/ui";
import { type ReactElement, useEffect, useMemo, useState } from "react";
import type { Panel, StatPanel, TimeSeriesPanel } from "./dashboards.ts";
import { configured, legendOf, withDefaults } from "./frames.ts";
import { queryInstant, queryRange, type Range } from "./prometheus.ts";
import { builtIn, interpolate, stepOf, type Values } from "./variables.ts";

interface Props {
  panel: Panel;
  url: string;
  values: Values;
  from: number;
  to: number;
  width: number;
  height: number;
  /** Called once, when the panel's queries are answered or failed. */
  onDone: (error: string | null) => void;
}

async function queried(props: Props): Promise<DataFrame[]> {
  const { panel, url, values, from, to, width } = props;
  const frames = panel.targets.map((target) => {
    const range: Range = { from, to, step: stepOf(from, to, width, target.interval) };
    const known = new Map([...values, ...builtIn(range, target.interval)]);
    return (target.instant ? queryInstant : queryRange)(url, interpolate(target.expr, known), target, range);
  });
  return (await Promise.all(frames)).flat();
}

function timeRange(from: number, to: number): TimeRange {
  const times = { from: dateTime(from * 1000), to: dateTime(to * 1000) };
  return { ...times, raw: times };
}

/** What Grafana shows for a panel without series. */
function NoData({ text, width, height }: { text: string; width: number; height: number }): ReactElement {
  return <div style={{ width, height, display: "grid", placeItems: "center" }}>{text}</div>;
}

interface DrawingProps<P extends Panel> {
  panel: P;
  frames: DataFrame[];
  range: TimeRange;
  width: number;
  height: number;
}

function Stat({ panel, frames, range, width, height }: DrawingProps<StatPanel>): ReactElement {
  const theme = useTheme2();
  const graph = panel.options.graphMode ?? BigValueGraphMode.Area;
  const textMode = panel.options.textMode ?? BigValueTextMode.Auto;
  const values = (): FieldDisplay[] =>
    getFieldDisplayValues({
      fieldConfig: withDefaults(panel.fieldConfig, panel),
      reduceOptions: panel.options.reduceOptions,
      replaceVariables: (text) => text,
      theme,
      data: frames,
      sparkline: graph !== BigValueGraphMode.None,
      timeZone: "utc",
    }).map((value) => (value.sparkline ? { ...value, sparkline: { ...value.sparkline, timeRange: range } } : value));
  return (
    <VizRepeater
      getValues={values}
      renderValue={({ value, width, height, count }) => (
        <BigValue
          value={value.display}
          {...(value.sparkline ? { sparkline: value.sparkline } : {})}
          colorMode={(panel.options.colorMode ?? BigValueColorMode.Value) as BigValueColorMode}
          graphMode={graph as BigValueGraphMode}
          justifyMode={(panel.options.justifyMode ?? BigValueJustifyMode.Auto) as BigValueJustifyMode}
          textMode={textMode as BigValueTextMode}
          count={count}
          {...(panel.options.text ? { text: panel.options.text } : {})}
          width={width}
          height={height}
          theme={theme}
        />
      )}
      width={width}
      height={height}
      source={frames}
      itemSpacing={3}
      renderCounter={0}
      autoGrid={true}
      orientation={VizOrientation.Auto}
    />
  );
}

function Lines({ panel, frames, range, width, height }: DrawingProps<TimeSeriesPanel>): ReactElement {
  return (
    <TimeSeries
      frames={frames}
      structureRev={1}
      timeRange={range}
      timeZone="utc"
      width={width}
      height={height}
      legend={legendOf(panel)}
      options={panel.options}
    />
  );
}

/** The panel with its frame. */
export function PanelView(props: Props): ReactElement {
  const { panel, from, to, width, height, onDone } = props;
  const theme = useTheme2();
  const [frames, setFrames] = useState<DataFrame[] | null>(null);
  const [error, setError] = useState("");
  const range = useMemo(() => timeRange(from, to), [from, to]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: a panel is queried once; the page is loaded again for another time
  useEffect(() => {
    queried(props).then(
      (data) => {
        setFrames(configured(panel, data, theme));
        onDone(null);
      },
      (failure: unknown) => {
        setError(String(failure));
        setFrames([]);
        onDone(`${panel.title}: ${failure}`);
      },
    );
  }, []);
  return (
    <PanelChrome
      title={panel.title}
      description={panel.description}
      width={width}
      height={height}
      loadingState={frames === null ? LoadingState.Loading : LoadingState.Done}
      {...(error ? { statusMessage: error } : {})}
    >
      {(innerWidth, innerHeight) => {
        if (frames === null || frames.length === 0) {
          return (
            <NoData text={panel.fieldConfig.defaults.noValue ?? "No data"} width={innerWidth} height={innerHeight} />
          );
        }
        const size = { frames, range, width: innerWidth, height: innerHeight };
        return panel.type === "stat" ? <Stat panel={panel} {...size} /> : <Lines panel={panel} {...size} />;
      }}
    </PanelChrome>
  );
}
