/**
 * A dashboard of the query parameter `dashboard`, or the list of them. `prometheus`: its URL; `from` and `to`: seconds since
 * 1970, or `now-6h`; `var-NAME`: the value of a variable.
 */
import "@fontsource/inter/400.css";
import "@fontsource/inter/500.css";
import { createTheme, ThemeContext } from "@grafana/data";
import { GlobalStyles } from "@grafana/ui";
import { type ReactElement, useCallback, useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";
import { type Dashboard, dashboards } from "./dashboards.ts";
import { PanelView } from "./PanelView.tsx";
import { interpolate, resolve, type Values } from "./variables.ts";

const CELL = 30;
const GAP = 8;
const COLUMNS = 24;
const MARGIN = 16;

/** Read by tools/screenshots.ts. */
interface Progress {
  done: boolean;
  errors: string[];
}

declare global {
  interface Window {
    progress: Progress;
  }
}

const parameters = new URLSearchParams(location.search);

/** Seconds since 1970 of `1790000000`, `now` or `now-6h`. */
function seconds(text: string): number {
  const found = /^now(?:-(\d+)([mhd]))?$/.exec(text);
  if (!found) {
    return Number(text);
  }
  const unit: Record<string, number> = { m: 60, h: 3600, d: 86_400 };
  return Math.floor(Date.now() / 1000) - Number(found[1] ?? 0) * (unit[found[2] ?? ""] ?? 0);
}

function List(): ReactElement {
  return (
    <ul>
      {[...dashboards].map(([name, dashboard]) => (
        <li key={name}>
          <a href={`?${new URLSearchParams([...parameters, ["dashboard", name]])}`}>{dashboard.title}</a>
        </li>
      ))}
    </ul>
  );
}

interface BoardProps {
  dashboard: Dashboard;
  url: string;
  from: number;
  to: number;
}

function Board({ dashboard, url, from, to }: BoardProps): ReactElement {
  const [values, setValues] = useState<Values | null>(null);
  const left = useRef(dashboard.panels.filter((panel) => panel.type !== "row").length);
  useEffect(() => {
    resolve(url, dashboard.templating.list, { from, to, step: 60 }, parameters).then(setValues, (failure: unknown) => {
      window.progress = { done: true, errors: [String(failure)] };
    });
  }, [dashboard, url, from, to]);
  const onDone = useCallback((error: string | null) => {
    left.current -= 1;
    const errors = [...window.progress.errors, ...(error ? [error] : [])];
    window.progress = { done: left.current === 0, errors };
  }, []);
  const width = document.documentElement.clientWidth - 2 * MARGIN;
  const column = (width - (COLUMNS - 1) * GAP) / COLUMNS;
  const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const shown = dashboard.templating.list.filter((variable) => variable.hide !== 2);
  return (
    <main style={{ padding: MARGIN, position: "absolute", inset: 0, height: "max-content" }}>
      <h3>{dashboard.title}</h3>
      <p>{dashboard.description}</p>
      <p>
        {shown.map((variable) => (
          <span key={variable.name} style={{ marginRight: 24 }}>
            {variable.label ?? variable.name}: <b>{values?.get(variable.name) ?? ""}</b>
          </span>
        ))}
        {new Date(from * 1000).toISOString().slice(0, 16)} to {new Date(to * 1000).toISOString().slice(0, 16)} UTC
      </p>
      <div style={{ position: "relative", height: bottom * (CELL + GAP) }}>
        {values !== null &&
          dashboard.panels.map((panel) => {
            const { x, y, w, h } = panel.gridPos;
            const place = {
              position: "absolute" as const,
              left: x * (column + GAP),
              top: y * (CELL + GAP),
              width: w * column + (w - 1) * GAP,
              height: h * (CELL + GAP) - GAP,
            };
            return (
              <div key={panel.id} style={place} data-panel={panel.title}>
                {panel.type === "row" ? (
                  <h5 style={{ lineHeight: `${CELL}px` }}>{interpolate(panel.title, values)}</h5>
                ) : (
                  <PanelView {...{ panel, url, values, from, to, onDone }} width={place.width} height={place.height} />
                )}
              </div>
            );
          })}
      </div>
    </main>
  );
}

function Page(): ReactElement {
  const dashboard = dashboards.get(parameters.get("dashboard") ?? "");
  if (!dashboard) {
    return <List />;
  }
  const url = (parameters.get("prometheus") ?? "http://127.0.0.1:9090").replace(/\/$/, "");
  const times = { from: seconds(parameters.get("from") ?? "now-6h"), to: seconds(parameters.get("to") ?? "now") };
  return <Board dashboard={dashboard} url={url} {...times} />;
}

window.progress = { done: false, errors: [] };
const theme = createTheme({ colors: { mode: parameters.get("theme") === "light" ? "light" : "dark" } });
const root = document.getElementById("page");
if (root) {
  // The width of axes is computed from the width of text.
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 12px Inter`)));
  createRoot(root).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Page />
    </ThemeContext.Provider>,
  );
}
