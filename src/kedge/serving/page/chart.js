// Small pictures of quality by day, a line a version.

import { draw, make, shown } from "./parts.js";

const MARKS = [ // a circle, a square, triangles, a diamond, a cross
  "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
  "M-3 -3h6v6h-6z",
  "M0 -4l4 7h-8z",
  "M0 -4.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z",
  "M0 4l4 -7h-8z",
  "M-4 -1.2h2.8v-2.8h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8z",
];
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [320, 150, 40, 8, 8, 22];
const DAY = 86_400_000;

const share = (of, against) => (row) => {
  const n = row[of] + row[against];
  return n === 0 ? null : { value: row[of] / n, n, range: interval(row[of], n) };
};
const plain = (name, count) => (row) => (row[name] === null ? null : { value: row[name], n: row[count] });

const MEASURES = [
  { title: "Thumbs that are up", of: share("up", "down"), isShare: true },
  { title: "Comparisons won", of: share("won", "lost"), isShare: true },
  { title: "Mean score", of: plain("score", "scored") },
  { title: "Tokens of an answer", of: plain("tokens", "answers"), fromZero: true },
  { title: "Answers", of: plain("answers", "answers"), fromZero: true },
];

/** Wilson's 95% interval of a share. */
function interval(hits, n) {
  const z = 1.96;
  const middle = (hits + z * z / 2) / (n + z * z);
  const half = z / (n + z * z) * Math.sqrt(hits * (n - hits) / n + z * z / 4);
  return [middle - half, middle + half];
}

/** A legend and a picture for each measure there is anything of. */
export function charts(rows) {
  const names = [...new Set(rows.map(nameOf))].slice(-MARKS.length);
  const days = rows.map((row) => Date.parse(row.day));
  const [first, last] = [Math.min(...days), Math.max(...days)];
  const legend = make("ul", { class: "legend" }, ...names.map((name, at) => make(
    "li", {}, draw("svg", { viewBox: "-6 -6 12 12", class: `series-${at}`, "aria-hidden": true }, mark(at)), make("bdi", {}, shown(name)),
  )));
  const pictures = MEASURES.map((measure) => picture(measure, rows, names, first, last)).filter((each) => each !== null);
  return [legend, make("div", { class: "charts" }, ...pictures)];
}

const nameOf = (row) => `v${row.version} · ${row.source.split("/").filter(Boolean).at(-1) ?? row.source}`;

function picture(measure, rows, names, first, last) {
  const points = rows.filter((row) => names.includes(nameOf(row)))
    .map((row) => ({ row, at: names.indexOf(nameOf(row)), day: Date.parse(row.day), ...measure.of(row) }))
    .filter((point) => point.n > 0);
  if (points.length === 0) return null;
  const [low, high] = bounds(measure, points.map((point) => point.value));
  const x = (day) => (first === last ? (LEFT + WIDTH - RIGHT) / 2 : LEFT + 6 + (day - first) / (last - first) * (WIDTH - LEFT - RIGHT - 12));
  const y = (value) => TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);
  const written = (value) => (measure.isShare ? `${Math.round(value * 100)}%` : short(value));

  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${measure.title} by day; the table has the numbers` });
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(
      draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      draw("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, written(value)),
    );
  }
  for (const [day, anchor] of first === last ? [[first, "middle"]] : [[first, "start"], [last, "end"]]) {
    svg.append(draw("text", { x: x(day), y: HEIGHT - 5, "text-anchor": anchor }, new Date(day).toISOString().slice(5, 10)));
  }
  names.forEach((name, at) => {
    const own = points.filter((point) => point.at === at);
    const line = draw("g", { class: `series-${at}` });
    for (const [one, next] of own.slice(1).map((point, i) => [own[i], point])) {
      // No line over days of which nothing is known.
      if (next.day - one.day <= DAY) line.append(draw("line", { class: "line", x1: x(one.day), y1: y(one.value), x2: x(next.day), y2: y(next.value) }));
    }
    for (const point of own) {
      if (point.range) line.append(draw("line", { class: "range", x1: x(point.day), x2: x(point.day), y1: y(point.range[0]), y2: y(point.range[1]) }));
      line.append(draw(
        "g", { transform: `translate(${x(point.day)} ${y(point.value)})` },
        draw("title", {}, `${name}, ${point.row.day}: ${written(point.value)} of ${point.n}`), mark(at),
      ));
    }
    svg.append(line);
  });
  return make("figure", { class: "panel" }, make("figcaption", {}, measure.title), svg);
}

function bounds({ isShare, fromZero }, values) {
  if (isShare) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (fromZero) return [0, roundAbove(high)];
  const space = (high - low) * 0.15 || Math.abs(high) * 0.1 || 1;
  return [low - space, high + space];
}

/** The next number that is easily read. */
function roundAbove(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return power * [1, 2, 4, 6, 8, 10].find((each) => each * power >= value);
}

function short(value) {
  return Math.abs(value) >= 1000 ? `${(value / 1000).toFixed(1)}k` : String(Number(value.toFixed(2)));
}

/** A shape a series, so that nobody depends on colours. */
function mark(at) {
  return draw("path", { class: "mark", d: MARKS[at] });
}
