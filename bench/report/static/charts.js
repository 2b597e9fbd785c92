// Plots with uPlot: lines over time, cumulative distributions, and curves through points of load.
// A chart is {id, draw()}; draw() builds it anew from the current colours and the width of its panel.
"use strict";

const charts = [];
const LEFT = 66;  // room for the numbers of the vertical axis, the same everywhere, so that times are aligned
const RIGHT = 18;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim() || name;
}

function faded(shade, share) {
  return `color-mix(in srgb, ${shade} ${Math.round(share * 100)}%, transparent)`;
}

// The colour of load i of n: the hue says "more", from orange through violet to blue.
function ramp(i, n) {
  const stops = ["orange", "violet", "blue"].map(colour);
  const at = n < 2 ? 2 : (i / (n - 1)) * 2;
  const low = Math.min(1, Math.floor(at));
  return `color-mix(in oklab, ${stops[low + 1]} ${Math.round((at - low) * 100)}%, ${stops[low]})`;
}

// uPlot keeps colours as they are, and a canvas understands no var() and, in older browsers, no color-mix().
function solid(shade) {
  const probe = document.createElement("span");
  probe.style.color = shade;
  document.body.append(probe);
  const computed = getComputedStyle(probe).color;
  probe.remove();
  return computed;
}

function number(value) {
  if (value == null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return String(+value.toPrecision(3));
}

function panel(parent, id, title, note, wide) {
  const figure = document.createElement("figure");
  figure.className = wide ? "panel wide" : "panel";
  figure.id = id;
  const caption = document.createElement("figcaption");
  caption.innerHTML = "<b></b><span></span>";
  caption.firstChild.textContent = title;
  caption.lastChild.textContent = note || "";
  figure.append(caption);
  parent.append(figure);
  return figure;
}

function empty(figure, text) {
  const words = document.createElement("p");
  words.className = "empty";
  words.textContent = text;
  figure.append(words);
}

function keys(figure, entries) {
  const row = document.createElement("div");
  row.className = "keys";
  for (const [label, shade] of entries) {
    const key = document.createElement("span");
    const mark = document.createElement("i");
    mark.style.background = shade;
    key.append(mark, label);
    row.append(key);
  }
  figure.append(row);
  return row;
}

function register(chart) {
  charts.push(chart);
  chart.draw();
}

// Marks of a logarithmic axis: 1, 2 and 5 of every decade, fewer where decades are many, even steps in a part of one.
function logSplits(u, axis, low, high) {
  if (high / low < 4) {
    const step = niceStep((high - low) / 5);
    const count = Math.floor(high / step) - Math.ceil(low / step) + 1;
    return Array.from({ length: count }, (_, i) => +((Math.ceil(low / step) + i) * step).toPrecision(12));
  }
  const decades = Math.log10(high / low);
  const steps = decades > 5 ? [1] : decades > 2.5 ? [1, 3] : [1, 2, 5];
  const splits = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const step of steps) {
      const mark = step * 10 ** power;
      if (mark >= low && mark <= high) splits.push(mark);
    }
  }
  return splits;
}

// 1, 2 or 5 times a power of ten, and not less than asked for.
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
}

function axis(label, log, vertical) {
  return {
    label,
    labelSize: 18,
    labelFont: "12px system-ui, sans-serif",
    font: "12px system-ui, sans-serif",
    stroke: solid(colour("ink-2")),
    grid: { stroke: solid(colour("grid")), width: 1 },
    ticks: { stroke: solid(colour("grid")), width: 1, size: 5 },
    size: vertical ? LEFT - 18 : 34,
    gap: 4,
    space: vertical ? 30 : 54,
    values: (u, splits) => splits.map((value) => (value == null ? "" : number(value))),
    ...(log ? { splits: logSplits, filter: (u, splits) => splits } : {}),
  };
}

// The range of the vertical axis, or of the horizontal one while all is shown.
function scale(log, range, fromZero) {
  const usual = log
    ? (low, high) => (low > 0 ? [low / 1.15, high * 1.15] : [0.1, 10])
    : (low, high) => {
        if (low == null) return [0, 1];
        const room = (high - (fromZero ? 0 : low)) * 0.08 || Math.abs(high) * 0.1 || 1;
        return [fromZero || (low >= 0 && low < room) ? 0 : low - room, high + room];
      };
  return { time: false, distr: log ? 3 : 1, range: (u, low, high) => (range || usual)(low, high) };
}

// uPlot asks for the range of a part that was chosen, too: that is shown as it is.
function horizontal(log, range, places) {
  const whole = scale(log, range, false);
  const all = (low, high) => low == null || (low <= places[0] && high >= places.at(-1));
  return { ...whole, range: (u, low, high) => (all(low, high) ? whole.range(u, low, high) : [low, high]) };
}

// options: {figure, data, series, xLabel, yLabel, xLog, yLog, xRange, yRange, height, sync, hooks, zero, ySplits}
function plot(options) {
  const { figure } = options;
  const host = document.createElement("div");
  figure.append(host);
  const chart = { id: figure.id, plot: null };
  chart.resize = () => {
    if (chart.plot && host.clientWidth) chart.plot.setSize({ width: host.clientWidth, height: options.height || 230 });
  };
  chart.draw = () => {
    if (chart.plot) chart.plot.destroy();
    const y = axis(options.yLabel, options.yLog, true);
    if (options.ySplits) y.splits = () => options.ySplits;
    chart.plot = new uPlot(
      {
        width: host.clientWidth || 300,
        height: options.height || 230,
        padding: [10, RIGHT, 0, 0],
        scales: {
          x: horizontal(options.xLog, options.xRange, options.data[0]),
          y: scale(options.yLog, options.yRange, options.zero !== false),
        },
        axes: [axis(options.xLabel, options.xLog, false), y],
        series: [
          { label: options.xLabel, value: (u, value) => (value == null ? "" : number(value)) },
          ...options.series.map((series) => line(series)),
        ],
        cursor: {
          y: false,
          points: { size: 7 },
          ...(options.sync ? { sync: { key: options.sync, setSeries: false } } : {}),
        },
        legend: {
          markers: {
            width: 2,
            stroke: (u, i) => u.series[i].stroke(),
            fill: (u, i) => (u.series[i].dash ? "transparent" : u.series[i].stroke()),
          },
        },
        hooks: {
          draw: options.hooks ? [options.hooks] : [],
          setCursor: [(u) => u.root.classList.toggle("live", u.cursor.idx != null)],
        },
      },
      options.data,
      host,
    );
  };
  register(chart);
  return chart;
}

function line(series) {
  const stroke = solid(series.colour.includes("(") ? series.colour : colour(series.colour));
  return {
    label: series.label,
    stroke,
    width: series.width ?? 1.75,
    dash: series.dash,
    fill: series.fill ? solid(faded(stroke, series.fill)) : undefined,
    spanGaps: true,
    paths: series.dots || series.bare ? () => null : series.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
    points: { show: Boolean(series.dots), size: series.dots || 5, fill: series.hollow ? undefined : stroke, width: 0 },
    value: series.value || ((u, value) => (value == null ? "" : number(value) + (series.unit || ""))),
  };
}

function overTime(figure, duration, data, series, options) {
  plot({
    figure,
    data,
    series,
    xLabel: "seconds",
    xRange: () => [0, duration],
    height: 170,
    sync: "time",
    ...options,
  });
}

// curves: [{label, colour, x, y, dash, marks}], x milliseconds, y percent. `marks` are percentiles of the summary, [[p,
// milliseconds]], and shown for the first curve where there are few.
function distribution(figure, curves, xLabel) {
  const shown = curves.filter((curve) => curve.x.length);
  if (!shown.length) return empty(figure, "No request has this figure.");
  const marks = shown.length > 2 ? [] : shown[0].marks;
  // Events that arrived together have gaps of nothing, which would take decades: the axis begins at the first percent.
  const from = Math.min(...shown.map(({ x, y }) => x[y.findIndex((level) => level >= 1)]));
  return plot({
    figure,
    data: uPlot.join(shown.map((curve) => [curve.x, curve.y])),
    series: shown.map((curve) => ({ ...curve, steps: true, unit: " %" })),
    xLabel,
    yLabel: "% of values",
    xLog: true,
    xRange: (low, high) => [Math.max(low, from) / 1.15, high * 1.15],
    yRange: () => [0, 102],
    ySplits: [0, 25, 50, 75, 90, 100],
    hooks: (u) => marks.forEach(([level, x]) => mark(u, x, level, `p${level} ${number(x)}`)),
  });
}

// A dot on the first series, and its name beside it.
function mark(u, xValue, yValue, text) {
  const { ctx } = u;
  const dpr = devicePixelRatio;
  const [x, y] = [u.valToPos(xValue, "x", true), u.valToPos(yValue, "y", true)];
  ctx.save();
  ctx.font = `${12 * dpr}px system-ui, sans-serif`;
  ctx.beginPath();
  ctx.arc(x, y, 4 * dpr, 0, 7);
  ctx.fillStyle = u.series[1].stroke();
  ctx.fill();
  const left = x + ctx.measureText(text).width + 12 * dpr > u.bbox.left + u.bbox.width;
  ctx.textAlign = left ? "right" : "left";
  ctx.fillStyle = solid(colour("ink"));
  ctx.fillText(text, x + (left ? -8 : 8) * dpr, y + (yValue > 90 ? 16 : 4) * dpr);
  ctx.restore();
}

// Points joined in the order given, not from left to right: beyond its knee a server's throughput goes back.
// curves: [{label, colour, x, y, names, dash, low, high, sure}]; names stand beside the points, low and high are error
// bars, and what is not sure is hollow.
function curve(figure, curves, options) {
  const shown = curves
    .map((one) => ({ ...one, at: one.x.map((x, i) => i).filter((i) => one.x[i] != null && one.y[i] != null) }))
    .filter((one) => one.at.length);
  if (!shown.length) return empty(figure, "No point has this figure.");
  const tables = shown.map((one) => {
    const sorted = [...one.at].sort((a, b) => one.x[a] - one.x[b]);
    return [sorted.map((i) => one.x[i]), sorted.map((i) => one.y[i])];
  });
  const draw = (u) => {
    limits(u, options.limits || []);
    shown.forEach((one, index) => drawCurve(u, one, u.series[index + 1].stroke()));
  };
  if (shown.some((one) => one.at.some((i) => !one.sure[i]))) {
    figure.querySelector("figcaption span").textContent += " – hollow: too few samples";
  }
  return plot({
    figure,
    data: uPlot.join(tables),
    series: shown.map((one) => ({ ...one, bare: true })),
    hooks: draw,
    height: 290,
    ...options,
  });
}

function drawCurve(u, one, stroke) {
  const { ctx } = u;
  const dpr = devicePixelRatio;
  const place = (x, y) => [u.valToPos(x, "x", true), u.valToPos(y, "y", true)];
  ctx.save();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = 1.75 * dpr;
  ctx.setLineDash((one.dash || []).map((part) => part * dpr));
  ctx.beginPath();
  one.at.forEach((i, k) => ctx[k ? "lineTo" : "moveTo"](...place(one.x[i], one.y[i])));
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.font = `${11 * dpr}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  for (const i of one.at) {
    const [x, y] = place(one.x[i], one.y[i]);
    ctx.beginPath();
    if (one.low[i] != null) {
      ctx.moveTo(...place(one.x[i], one.low[i]));
      ctx.lineTo(...place(one.x[i], one.high[i]));
      ctx.stroke();
    }
    ctx.beginPath();
    ctx.arc(x, y, 4 * dpr, 0, 7);
    ctx.fillStyle = one.sure[i] ? stroke : solid(colour("panel"));
    ctx.fill();
    ctx.stroke();
    ctx.fillStyle = solid(colour("ink-2"));
    if (one.names) ctx.fillText(one.names[i], x + 7 * dpr, y - 7 * dpr);
  }
  ctx.restore();
}

// Horizontal lines of what was promised: [{value, label}].
function limits(u, lines) {
  const { ctx } = u;
  const dpr = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = solid(colour("red"));
  ctx.lineWidth = dpr;
  ctx.setLineDash([5 * dpr, 4 * dpr]);
  ctx.font = `${11 * dpr}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  ctx.textBaseline = "bottom";
  for (const { value, label } of lines) {
    const y = u.valToPos(value, "y", true);
    if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) continue;
    ctx.beginPath();
    ctx.moveTo(u.bbox.left, y);
    ctx.lineTo(u.bbox.left + u.bbox.width, y);
    ctx.stroke();
    ctx.fillText(label, u.bbox.left + 4 * dpr, y - 2 * dpr);
  }
  ctx.restore();
}
