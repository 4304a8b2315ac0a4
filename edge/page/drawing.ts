/** Drawings of the page, as SVG. */

import { svg } from "./dom.ts";

/** A bar from 0 to 1 on a square-root scale, on which small probabilities can be seen, and a tick at the threshold. */
export function gauge(probability: number, threshold: number): SVGElement {
  const at = (value: number) => Math.sqrt(value) * 600;
  const kind = probability >= threshold ? "fill fraud" : "fill";
  return svg(
    "svg",
    { viewBox: "0 0 600 26" },
    svg("rect", { class: "track", x: 0, y: 6, width: 600, height: 14, rx: 4 }),
    svg("rect", { class: kind, x: 0, y: 6, width: Math.max(2, at(probability)), height: 14, rx: 4 }),
    svg("line", { class: "tick", x1: at(threshold), x2: at(threshold), y1: 1, y2: 25 }),
  );
}

/** One bar per value, a line at the threshold, the current bar outlined. `choose` is called with an index. */
export function bars(
  probabilities: readonly number[],
  threshold: number,
  current: number,
  labels: readonly string[],
  choose: (index: number) => void,
): SVGElement {
  const [width, height] = [600, 90];
  const most = Math.max(...probabilities, threshold * 1.3, 1e-6);
  const step = width / probabilities.length;
  const up = (value: number) => Math.sqrt(value / most) * height;
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height + 22}` });
  probabilities.forEach((value, i) => {
    const kind = value >= threshold ? "fill fraud" : "fill";
    const [x, tall] = [i * step + 1, Math.max(1, up(value))];
    drawn.append(svg("rect", { class: kind, x, y: height - tall, width: step - 2, height: tall, rx: 1 }));
    const whole = svg("rect", {
      class: i === current ? "now" : "",
      x,
      y: 0,
      width: step - 2,
      height,
      fill: "transparent",
      "data-value": i,
    });
    whole.append(svg("title", {}, `${labels[i]}: ${value.toPrecision(4)}`));
    whole.addEventListener("click", () => choose(i));
    drawn.append(whole);
  });
  drawn.append(
    svg("line", { class: "limit", x1: 0, x2: width, y1: height - up(threshold), y2: height - up(threshold) }),
  );
  const every = Math.ceil(probabilities.length / 8);
  labels.forEach((label, i) => {
    if (i % every === 0) {
      drawn.append(svg("text", { x: i * step + 1, y: height + 17 }, label));
    }
  });
  return drawn;
}

/** A bar from the middle to the right (more likely fraud) or the left. `share`: -1..1. */
export function part(share: number): SVGElement {
  const size = Math.abs(share) * 300;
  return svg(
    "svg",
    { viewBox: "0 0 600 8", preserveAspectRatio: "none" },
    svg("rect", { class: "track", x: 0, y: 3, width: 600, height: 2 }),
    svg("rect", {
      class: share > 0 ? "fill fraud" : "fill",
      x: share > 0 ? 300 : 300 - size,
      y: 0,
      width: Math.max(1, size),
      height: 8,
    }),
  );
}
