// Puts a report together: reads the data, builds the panels of its kind, and follows theme and width.
"use strict";

const report = JSON.parse(document.getElementById("data").textContent);

const LATENCY = [
  ["ttft", "Time to first token", ["ttft", "from the send", "blue"], ["ttft_sched", "from the schedule", "orange"]],
  ["tpot", "Time per output token", ["tpot", "TPOT", "blue"], ["ntpot", "NTPOT, the first token included", "orange"]],
  ["itl", "Gaps while streaming", ["itl", "ITL, per token", "blue"], ["icl", "ICL, per event", "orange"]],
  ["e2el", "End to end", ["e2el", "from the send", "blue"], ["e2el_sched", "from the schedule", "orange"]],
];

function group(parent, title) {
  const heading = document.createElement("h3");
  heading.textContent = title;
  const plots = document.createElement("div");
  plots.className = "plots";
  parent.append(heading, plots);
  return plots;
}

function showRun(parent, run) {
  showLatency(group(parent, "Latency"), run);
  showTime(group(parent, "Over time"), run);
  showRequests(group(parent, "Requests"), run);
}

function showLatency(parent, run) {
  for (const [id, title, ...parts] of LATENCY) {
    const figure = panel(parent, `cdf-${id}`, title, `${number(run.cdf[id].n)} values`);
    const [first, second] = parts.map(([name]) => run.cdf[name].x);
    // A closed loop sends at once, and most servers a token an event: both curves would be one.
    const same = first.length === second.length && first.every((x, i) => Math.abs(x - second[i]) <= 0.01 * x);
    const curves = parts
      .slice(0, same ? 1 : 2)
      .map(([name, label, shade], i) => ({ label, colour: shade, dash: i ? [6, 4] : undefined, ...run.cdf[name] }));
    distribution(figure, curves, "milliseconds");
  }
}

function showTime(parent, run) {
  const { flow, server, client, duration } = run;
  overTime(
    panel(parent, "time-tokens", "Output", "tokens per second, as they arrived", true),
    duration,
    [flow.t, flow.tokens],
    [{ label: "tokens/s", colour: "blue", fill: 0.14 }],
    { yLabel: "tokens/s" },
  );
  const waiting = (u, value, series, i) => (i == null ? "" : number(flow.waiting[i]));
  const all = flow.waiting.map((count, i) => count + flow.decoding[i]);
  overTime(
    panel(parent, "time-open", "Requests in flight", "as the client sees them", true),
    duration,
    [flow.t, all, flow.decoding],
    [
      { label: "before their first token", colour: "orange", fill: 0.2, value: waiting },
      { label: "decoding", colour: "blue", fill: 0.35 },
    ],
    { yLabel: "requests" },
  );
  serverLines(
    panel(parent, "time-queue", "In the server", "as its metrics say", true),
    run,
    { running: ["running", "blue", 0.14], waiting: ["waiting", "orange", 0.14] },
    "requests",
  );
  serverLines(
    panel(parent, "time-kv", "KV cache in use", "as its metrics say", true),
    run,
    { kv_used: ["KV cache", "violet", 0.14] },
    "%",
    { yRange: () => [0, 102] },
  );
  const figure = panel(parent, "time-client", "The client's own delay", "p99 of its slowest worker", true);
  if (!client.t.length) empty(figure, "The client was not watched.");
  else {
    overTime(
      figure,
      duration,
      [client.t, client.lag, client.late],
      [
        { label: "stamps behind the kernel's, ms", colour: "teal", fill: 0.14 },
        { label: "sends behind the schedule, ms", colour: "orange" },
      ],
      { yLabel: "ms" },
    );
  }
  drawStrip(panel(parent, "failures", "Failures", "", true), run.failures, duration);
}

function serverLines(figure, run, names, label, options) {
  const known = Object.entries(names).filter(([name]) => run.server[name]);
  if (!known.length) return empty(figure, "The server does not say.");
  overTime(
    figure,
    run.duration,
    [run.server.t, ...known.map(([name]) => run.server[name])],
    known.map(([, [name, shade, fill]]) => ({ label: name, colour: shade, fill })),
    { yLabel: label, ...options },
  );
}

function showRequests(parent, run) {
  const { lanes, duration } = run;
  const note = lanes.every > 1 ? `one in ${lanes.every} of ${number(lanes.of)}, and failures` : `all ${lanes.of}`;
  drawLanes(panel(parent, "lanes", "Timeline of requests", note, true), lanes, duration);
  drawHeat(panel(parent, "heat", "Gaps between events over time", "the stronger, the more", true), run.heat, duration);
  dots(panel(parent, "prompts", "Time to first token by length of prompt", "a dot a request"), run.prompts, {
    xLabel: "tokens in the prompt",
  });
  dots(panel(parent, "slices", "Throughput and latency", "a dot for each slice of the run"), run.slices, {
    xLabel: "output tokens/s",
  });
}

function dots(figure, { x, y }, options) {
  if (!x.length) return empty(figure, "No request has this figure.");
  plot({
    figure,
    data: [x, y],
    series: [{ label: "TTFT, ms", colour: faded(colour("blue"), 0.55), dots: 6 }],
    yLabel: "ms",
    yLog: true,
    height: 260,
    ...options,
  });
}

// sets: [{label, colour or null, points: [{load, name, ...figures}]}], one of a sweep, two of a comparison.
function showLoads(parent, sets, unit, limitLines) {
  const many = sets.length > 1;
  const line = (set, i, key, label, shade, dash, named) => ({
    label: many ? `${set.label}, ${label}` : label,
    colour: many ? ["grey", "blue"][i] : shade,
    dash,
    x: set.points.map((point) => point[key[0]]?.mean),
    y: set.points.map((point) => point[key[1]]?.mean),
    low: set.points.map((point) => point[key[1]]?.low),
    high: set.points.map((point) => point[key[1]]?.high),
    sure: set.points.map((point) => point[key[0]]?.reliable && point[key[1]]?.reliable),
    names: named ? set.points.map((point) => point.name) : undefined,
  });
  const lines = (...parts) => sets.flatMap((set, i) => parts.map((part) => line(set, i, ...part)));
  curve(
    panel(parent, "pareto-latency", "Throughput and time to first token", `beside the points: ${unit}`),
    lines(
      [["throughput", "ttft_p50"], "p50", "blue", undefined, true],
      [["throughput", "ttft_p99"], "p99", "orange", [6, 4]],
    ),
    { xLabel: "output tokens/s", yLabel: "ms", yLog: true, limits: limitLines.ttft },
  );
  curve(
    panel(parent, "pareto-user", "Throughput and speed for each user", "right and up is better"),
    lines([["per_user", "throughput"], "throughput", "blue", undefined, true]),
    { xLabel: "tokens/s for each user, 1 / TPOT p50", yLabel: "output tokens/s" },
  );
  curve(
    panel(parent, "load-latency", "Latency by load", "milliseconds"),
    lines(
      [["load", "ttft_p50"], "TTFT p50", "blue"],
      [["load", "ttft_p99"], "TTFT p99", "blue", [6, 4]],
      [["load", "tpot_p50"], "TPOT p50", "orange"],
      [["load", "tpot_p99"], "TPOT p99", "orange", [6, 4]],
    ),
    { xLabel: unit, yLabel: "ms", xLog: true, yLog: true, limits: [...limitLines.ttft, ...limitLines.tpot] },
  );
  curve(
    panel(parent, "load-throughput", "Throughput by load", "output tokens per second"),
    lines([["load", "throughput"], "tokens/s", "blue"]),
    { xLabel: unit, yLabel: "tokens/s", xLog: true },
  );
}

function overlay(parent, curves) {
  for (const [id, title] of LATENCY) {
    const figure = panel(parent, `all-${id}`, title, id.toUpperCase());
    distribution(
      figure,
      curves.map(({ run, ...look }) => ({ ...look, ...run.cdf[id] })),
      "milliseconds",
    );
  }
}

function pick(main) {
  const head = document.createElement("div");
  head.className = "picker";
  head.innerHTML = '<h2><label for="run">One run in detail</label></h2><select id="run"></select>';
  const place = document.createElement("div");
  place.id = "detail";
  const choice = head.querySelector("select");
  report.runs.forEach((run, i) => choice.add(new Option(run.name, i)));
  choice.addEventListener("change", () => {
    const kept = charts.filter((chart) => !place.contains(document.getElementById(chart.id)));
    charts.splice(0, charts.length, ...kept);
    place.replaceChildren();
    showRun(place, report.runs[choice.value]);
  });
  main.append(head, place);
  choice.value = report.chosen;
  showRun(place, report.runs[report.chosen]);
}

function build() {
  const main = document.getElementById("plots");
  if (report.kind === "run") return showRun(main, report.runs[0]);
  if (report.loads) showLoads(group(main, "Load"), report.loads.sets, report.loads.unit, report.loads.limits);
  if (report.kind === "series") {
    const curves = report.firsts.map((i, k, all) => ({
      run: report.runs[i],
      label: report.runs[i].label,
      colour: ramp(k, all.length),
    }));
    overlay(group(main, "Latency by load"), curves);
  } else {
    const [old, fresh] = report.pair.map((i) => report.runs[i]);
    const curves = [
      { run: fresh, label: "new", colour: "blue" },
      { run: old, label: "old", colour: "grey", dash: [6, 4] },
    ];
    overlay(group(main, "Latency, old and new"), curves);
    bothOverTime(group(main, "Over time, old and new"), old, fresh);
  }
  pick(main);
}

function bothOverTime(parent, old, fresh) {
  for (const [id, name, label] of [
    ["both-tokens", "Output", "tokens"],
    ["both-open", "Requests decoding", "decoding"],
  ]) {
    overTime(
      panel(parent, id, name, label === "tokens" ? "tokens per second" : "", true),
      Math.max(old.duration, fresh.duration),
      uPlot.join([
        [fresh.flow.t, fresh.flow[label]],
        [old.flow.t, old.flow[label]],
      ]),
      [
        { label: "new", colour: "blue" },
        { label: "old", colour: "grey", dash: [6, 4] },
      ],
      { yLabel: label === "tokens" ? "tokens/s" : "requests" },
    );
  }
}

function follow() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
    for (const chart of charts) chart.draw();
  };
  document.getElementById("theme").addEventListener("click", () => {
    apply(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  });
  dark.addEventListener("change", () => apply(dark.matches ? "dark" : "light"));
  apply(dark.matches ? "dark" : "light");
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width === innerWidth) return;
    width = innerWidth;
    for (const chart of charts) chart.resize();
  });
}

follow();
build();
