// What uPlot has no kind for, on plain canvases: requests as lanes, failures on a strip, gaps as a heat map.
// They share the margins of the plots, so that a moment is at the same place in all of them.
"use strict";

const FAILURES = {
  http_error: ["HTTP error", "red"],
  stream_error: ["error in the stream", "orange"],
  cut: ["cut stream", "violet"],
  empty: ["no token", "blue"],
  not_a_stream: ["not a stream", "blue"],
  connect: ["no connection", "red"],
  timeout: ["timeout", "teal"],
  cancelled: ["cancelled", "grey"],
  never_sent: ["never sent", "grey"],
};

// paint(ctx, width, height) draws in CSS pixels; tip(x, y, width) names what is under the pointer, or nothing.
function drawing(figure, height, paint, tip) {
  const canvas = document.createElement("canvas");
  figure.append(canvas);
  const chart = { id: figure.id, canvas };
  const width = () => figure.clientWidth - parseFloat(getComputedStyle(figure).paddingLeft) * 2;
  chart.draw = chart.resize = () => {
    const [w, dpr] = [Math.max(200, width()), devicePixelRatio];
    [canvas.width, canvas.height] = [Math.round(w * dpr), Math.round(height * dpr)];
    [canvas.style.width, canvas.style.height] = [`${w}px`, `${height}px`];
    const ctx = canvas.getContext("2d");
    ctx.scale(dpr, dpr);
    ctx.font = "12px system-ui, sans-serif";
    paint(ctx, w, height);
  };
  if (tip) hover(figure, canvas, (x, y) => tip(x, y, canvas.clientWidth));
  register(chart);
  return chart;
}

function hover(figure, canvas, tip) {
  const box = document.createElement("div");
  box.className = "tip";
  box.hidden = true;
  figure.append(box);
  canvas.addEventListener("pointermove", (event) => {
    const text = tip(event.offsetX, event.offsetY);
    box.hidden = !text;
    if (!text) return;
    box.textContent = text;
    box.style.left = `${Math.min(canvas.offsetLeft + event.offsetX + 14, figure.clientWidth - box.offsetWidth - 6)}px`;
    box.style.top = `${canvas.offsetTop + event.offsetY + 16}px`;
  });
  canvas.addEventListener("pointerleave", () => (box.hidden = true));
}

function timeScale(width, duration) {
  const span = width - LEFT - RIGHT;
  return { x: (t) => LEFT + (t / duration) * span, t: (x) => ((x - LEFT) / span) * duration };
}

function timeAxis(ctx, width, bottom, duration) {
  const { x } = timeScale(width, duration);
  const step = niceStep(duration / Math.max(2, (width - LEFT) / 70));
  ctx.textAlign = "center";
  ctx.textBaseline = "alphabetic";
  for (let t = 0; t <= duration * 1.0001; t += step) {
    ctx.fillStyle = colour("grid");
    ctx.fillRect(x(t), 0, 1, bottom);
    ctx.fillStyle = colour("ink-2");
    ctx.fillText(number(+t.toPrecision(6)), x(t), bottom + 16);
  }
  ctx.fillText("seconds", LEFT + (width - LEFT - RIGHT) / 2, bottom + 34);
}

function drawLanes(figure, lanes, duration) {
  if (!lanes.rows.length) return empty(figure, "No request was sent.");
  const shades = {
    "waiting in the client": "grey",
    "in the server's queue": "violet",
    "until the first token": "orange",
    decoding: "blue",
    failed: "red",
  };
  const queued = lanes.rows.some((row) => row[2] != null);
  const failed = lanes.rows.some((row) => row[6] !== "ok");
  const used = Object.entries(shades).filter(([name, shade]) =>
    shade === "violet" ? queued : shade === "red" ? failed : true,
  );
  keys(figure, used.map(([name, shade]) => [name, `var(--${shade})`]));
  const pitch = Math.max(2, Math.min(14, 460 / lanes.rows.length));
  const bottom = Math.ceil(pitch * lanes.rows.length) + 4;
  const paint = (ctx, width) => {
    const { x } = timeScale(width, duration);
    timeAxis(ctx, width, bottom, duration);
    const bar = (from, to, shade, top) => {
      if (from == null || to == null || to < 0) return;
      const left = Math.max(LEFT, x(from));
      ctx.fillStyle = shade;
      ctx.fillRect(left, top, Math.max(1, x(to) - left), Math.max(1.4, pitch * 0.78));
    };
    const paints = Object.fromEntries(["grey", "violet", "orange", "blue", "red"].map((name) => [name, colour(name)]));
    lanes.rows.forEach(([planned, sent, queue, first, last, end, outcome], i) => {
      const top = 2 + i * pitch;
      const heard = first ?? end;
      ctx.globalAlpha = 0.45;
      bar(planned, sent, paints.grey, top);
      ctx.globalAlpha = 1;
      bar(sent, heard, paints.orange, top);
      if (queue != null) bar(sent, Math.min(queue, heard), paints.violet, top);
      bar(first, last, paints.blue, top);
      if (outcome === "ok") return;
      const size = Math.max(4, pitch * 0.78);
      ctx.fillStyle = paints.red;
      ctx.fillRect(x(end) - size / 2, top + (pitch * 0.78 - size) / 2, size, size);
    });
    ctx.save();
    ctx.translate(14, bottom / 2);
    ctx.rotate(-Math.PI / 2);
    ctx.textAlign = "center";
    ctx.fillStyle = colour("ink-2");
    ctx.fillText("requests", 0, 0);
    ctx.restore();
  };
  const tip = (px, py) => {
    const row = lanes.rows[Math.floor((py - 2) / pitch)];
    if (!row || py < 2) return "";
    const [planned, sent, queue, first, last, end, outcome, tokensIn, tokensOut] = row;
    const lines = [`planned ${number(planned)} s, sent ${number((sent - planned) * 1e3)} ms later`];
    if (queue != null) lines.push(`queue ${number((queue - sent) * 1e3)} ms`);
    if (first != null) lines.push(`first token after ${number((first - sent) * 1e3)} ms`);
    if (last != null) lines.push(`last token after ${number((last - sent) * 1e3)} ms`);
    lines.push(`${number(tokensIn)} tokens in, ${number(tokensOut)} out`);
    if (outcome !== "ok") lines.push(FAILURES[outcome][0]);
    return lines.join("\n");
  };
  drawing(figure, bottom + 40, paint, tip);
}

function drawStrip(figure, failures, duration) {
  const kinds = Object.entries(failures);
  if (!kinds.length) return empty(figure, "No request failed.");
  const row = 22;
  keys(
    figure,
    kinds.map(([kind, { count, example }]) => [
      `${FAILURES[kind][0]} ${number(count)}${example ? `: ${example.slice(0, 90)}` : ""}`,
      `var(--${FAILURES[kind][1]})`,
    ]),
  );
  drawing(figure, kinds.length * row + 40, (ctx, width) => {
    const { x } = timeScale(width, duration);
    timeAxis(ctx, width, kinds.length * row, duration);
    kinds.forEach(([kind, { t }], i) => {
      ctx.fillStyle = colour("grid");
      ctx.fillRect(LEFT, i * row + row - 1, width - LEFT - RIGHT, 1);
      ctx.fillStyle = colour(FAILURES[kind][1]);
      ctx.globalAlpha = 0.75;
      for (const at of t) ctx.fillRect(x(at) - 1, i * row + 3, 2.5, row - 6);
      ctx.globalAlpha = 1;
    });
  });
}

function drawHeat(figure, heat, duration) {
  if (!heat.counts.length) return empty(figure, "No stream had two events.");
  const bottom = 190;
  const [low, high] = [heat.edges[0], heat.edges.at(-1)];
  const y = (ms) => bottom - (Math.log(ms / low) / Math.log(high / low)) * (bottom - 6);
  const most = Math.max(...heat.counts.map((column) => Math.max(...column)));
  const paint = (ctx, width) => {
    const { x } = timeScale(width, duration);
    timeAxis(ctx, width, bottom, duration);
    const steps = 24;
    const [from, to] = [colour("heat-low"), colour("heat-high")];
    const shades = Array.from({ length: steps + 1 }, (_, i) =>
      solid(`color-mix(in oklab, ${to} ${Math.round((i / steps) * 100)}%, ${from})`),
    );
    const step = duration / heat.counts.length;
    heat.counts.forEach((column, i) =>
      column.forEach((count, j) => {
        if (!count) return;
        ctx.fillStyle = shades[Math.round((Math.log1p(count) / Math.log1p(most)) * steps)];
        const [left, top] = [x(i * step), y(heat.edges[j + 1])];
        ctx.fillRect(left, top, x((i + 1) * step) - left + 0.5, y(heat.edges[j]) - top + 0.5);
      }),
    );
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    ctx.fillStyle = colour("ink-2");
    for (const mark of logSplits(null, 0, low, high)) {
      if (y(mark) > 8) ctx.fillText(number(mark), LEFT - 8, y(mark));
    }
    ctx.save();
    ctx.translate(12, bottom / 2);
    ctx.rotate(-Math.PI / 2);
    ctx.textAlign = "center";
    ctx.fillText("ms", 0, 0);
    ctx.restore();
  };
  const tip = (px, py, width) => {
    const { t } = timeScale(width, duration);
    const i = Math.floor((t(px) / duration) * heat.counts.length);
    const j = heat.edges.findIndex((edge, k) => py <= y(edge) && py > y(heat.edges[k + 1] ?? high));
    const count = heat.counts[i]?.[j];
    return count ? `${number(count)} gaps of ${number(heat.edges[j])} to ${number(heat.edges[j + 1])} ms` : "";
  };
  drawing(figure, bottom + 40, paint, tip);
}
