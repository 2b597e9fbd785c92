// A conversation with the server's model. Whatever comes from the model is shown as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const turns = []; // { question, answer, calls, done }: what was said; only turns that are done are sent again
let running = null; // the AbortController of the answer that is being written

// ---- Settings ----

const SETTINGS = ["system", "temperature", "top_p", "max_tokens", "seed", "schema", "tools", "key"];
const STORE = "tgi-playground"; // sessionStorage: forgotten with the tab

function restoreSettings() {
  const kept = JSON.parse(sessionStorage.getItem(STORE) ?? "{}");
  for (const id of SETTINGS) $(id).value = kept[id] ?? "";
  if (kept.theme) document.documentElement.dataset.theme = kept.theme;
  nameTheme();
}

function keepSettings() {
  const kept = Object.fromEntries(SETTINGS.map((id) => [id, $(id).value]));
  kept.theme = document.documentElement.dataset.theme;
  sessionStorage.setItem(STORE, JSON.stringify(kept));
}

const darkness = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : darkness.matches;
}

function nameTheme() {
  $("theme").textContent = isDark() ? "Light" : "Dark";
}

function openSettings(open) {
  $("settings").classList.toggle("open", open);
  $("settings-toggle").setAttribute("aria-expanded", String(open));
}

/** The JSON in a field, undefined where it is empty; null, and the field is pointed at, where it is not JSON. */
function json(id) {
  const field = $(id);
  field.setCustomValidity("");
  if (!field.value.trim()) return undefined;
  try {
    return JSON.parse(field.value);
  } catch (error) {
    field.setCustomValidity(`This is not JSON: ${error.message}`);
    return null;
  }
}

/** The request's parameters, or null where a setting makes no sense. */
function parameters() {
  const [schema, tools] = [json("schema"), json("tools")];
  const wrong = SETTINGS.find((id) => !$(id).checkValidity());
  for (const id of SETTINGS) $(id).classList.toggle("wrong", id === wrong);
  if (wrong) {
    openSettings(true);
    $(wrong).reportValidity();
    return null;
  }
  const body = {};
  for (const id of ["temperature", "top_p", "max_tokens", "seed"]) if ($(id).value !== "") body[id] = Number($(id).value);
  if (schema !== undefined) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  if (tools !== undefined) body.tools = tools;
  return body;
}

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

// ---- What is on the page ----

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Run a change of the page, and stay at its end if that is where the reader was. */
function following(change) {
  const scroller = $("scroller");
  const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
  change();
  if (atEnd) scroller.scrollTop = scroller.scrollHeight;
}

/** One question and the answer to it, as it is being written. */
class Turn {
  constructor(question) {
    this.question = question;
    this.place = element("li", "turn");
    this.place.append(element("p", "question", question));
    $("turns").append(this.place);
    this.begin();
  }

  begin() {
    Object.assign(this, { answer: "", calls: [], done: false, tokens: 0, finish: null, first: null, last: null });
    this.begun = performance.now();
    this.body?.remove();
    this.body = element("div", "waiting");
    this.text = element("div", "answer");
    this.figures = element("p", "figures", "waiting for the first token");
    this.body.append(this.text, this.figures);
    this.reasoning = this.callPlaces = null;
    this.place.append(this.body);
    $("scroller").scrollTop = $("scroller").scrollHeight;
  }

  add({ choices = [], usage }) {
    const now = performance.now();
    const [choice] = choices;
    if (choice) {
      const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
      if (content || reasoning || calls) {
        this.first ??= now;
        this.last = now;
        this.tokens += 1; // until the usage says it better: a token a chunk
      }
      if (reasoning) this.addReasoning(reasoning);
      if (content) this.addText(content);
      for (const call of calls ?? []) this.addCall(call);
      this.finish = choice.finish_reason ?? this.finish;
    }
    if (usage) this.tokens = usage.completion_tokens;
    this.figures.textContent = this.describe();
  }

  addText(text) {
    this.answer += text;
    this.thought();
    if (!this.text.firstChild) this.text.append("");
    this.text.firstChild.appendData(text);
  }

  addReasoning(text) {
    if (!this.reasoning) {
      const fold = element("details");
      this.reasoning = document.createTextNode("");
      const inside = element("div");
      inside.append(this.reasoning);
      fold.append(element("summary", "", "Thinking …"), inside);
      this.body.prepend(fold);
    }
    this.reasoning.appendData(text);
  }

  thought() {
    if (this.reasoning) this.body.querySelector("summary").textContent = "Reasoning";
  }

  addCall({ index = 0, id, function: called = {} }) {
    this.callPlaces ??= [];
    if (!this.callPlaces[index]) {
      const place = element("figure", "call");
      place.append(element("figcaption"), element("pre"));
      this.callPlaces[index] = place;
      this.calls[index] = { id: "", name: "", arguments: "" };
      this.figures.before(place);
    }
    const call = this.calls[index];
    call.id ||= id ?? "";
    call.name ||= called.name ?? "";
    call.arguments += called.arguments ?? "";
    const [caption, code] = this.callPlaces[index].children;
    caption.textContent = `calls ${call.name}`;
    code.textContent = indented(call.arguments);
  }

  describe() {
    if (this.first === null) return "waiting for the first token";
    const parts = [`${this.tokens} ${this.tokens === 1 ? "token" : "tokens"}`];
    const seconds = (this.last - this.first) / 1000;
    const rate = (this.tokens - 1) / seconds;
    if (this.tokens > 1 && seconds > 0) parts.push(`${rate.toFixed(rate < 100 ? 1 : 0)} tokens/s`);
    parts.push(`first token after ${Math.round(this.first - this.begun)} ms`);
    if (this.finish && this.finish !== "stop") parts.push(FINISHES[this.finish] ?? this.finish);
    return parts.join(" · ");
  }

  end(note) {
    this.body.classList.remove("waiting");
    this.thought();
    this.done = Boolean(this.answer || this.calls.length);
    this.figures.textContent = [this.first === null ? "" : this.describe(), note].filter(Boolean).join(" · ");
  }

  fail(words) {
    this.end();
    this.done = false;
    const notice = element("div", "failure");
    notice.setAttribute("role", "alert");
    const again = element("button", "", "Try again");
    again.type = "button";
    again.addEventListener("click", () => {
      if (!running) answer(this);
    });
    notice.append(element("p", "", words), again);
    this.body.append(notice);
  }

  /** The turn as messages of the next request. */
  messages() {
    const calls = this.calls.map(({ name, arguments: given }) => `${name}(${given})`).join("\n");
    const said = [this.answer, calls].filter(Boolean).join("\n");
    return [
      { role: "user", content: this.question },
      { role: "assistant", content: said },
    ];
  }
}

const FINISHES = { length: "cut at the longest length", tool_calls: "calls tools", content_filter: "filtered" };

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not all of it is there yet
  }
}

// ---- A request ----

/** Why a request failed, for people. */
function inWords(status, message, retryAfter) {
  switch (status) {
    case 401:
      return "The server wants an API key, or does not know this one. Enter one in the settings.";
    case 413:
      return "This conversation is larger than the server accepts. Begin a new one.";
    case 422:
      return `The server cannot answer this as it is: ${message}`;
    case 424:
      return `The engine failed on this request: ${message}`;
    case 429:
      return `The server is busy with as many requests as it allows. Try again in ${retryAfter ?? "a few"} s.`;
    case 503:
      return "The engine is not running; it may be starting again. Try again in a moment.";
    default:
      return `The server failed (${status}): ${message}`;
  }
}

function errorOf(body, status) {
  const error = body?.error ?? {};
  const text = typeof error === "string" ? error : (error.message ?? "no reason given");
  return { status: error.http_status_code ?? status, text };
}

class Failure extends Error {}

/** The data of each server-sent event of a response. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (buffer + value).split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data:")) yield block.slice(5).trim();
    }
  }
}

async function stream(turn, body, signal) {
  let response;
  try {
    const request = { method: "POST", headers: headers(), body: JSON.stringify(body), signal };
    response = await fetch("v1/chat/completions", request);
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Failure("The server cannot be reached.");
  }
  if (!response.ok) {
    const { status, text } = errorOf(await response.json().catch(() => null), response.status);
    throw new Failure(inWords(status, text, response.headers.get("retry-after")));
  }
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) {
      const { status, text } = errorOf(chunk, 500);
      throw new Failure(inWords(status, text));
    }
    following(() => turn.add(chunk));
  }
  throw new Failure("The connection ended before the answer was whole.");
}

async function answer(turn) {
  const settings = parameters();
  if (!settings) return;
  const system = $("system").value.trim();
  const before = turns.slice(0, turns.indexOf(turn)).filter((other) => other.done);
  const messages = [
    ...(system ? [{ role: "system", content: system }] : []),
    ...before.flatMap((other) => other.messages()),
    { role: "user", content: turn.question },
  ];
  const streaming = { stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  turn.begin();
  running = new AbortController();
  showRunning();
  try {
    await stream(turn, { model: "tgi", messages, ...streaming, ...settings }, running.signal);
    turn.end();
    $("announcement").textContent = `The answer is complete: ${turn.describe()}.`;
  } catch (error) {
    if (running.signal.aborted) {
      turn.end("stopped");
      $("announcement").textContent = "Stopped.";
    } else {
      const words = error instanceof Failure ? error.message : "The connection broke before the answer was whole.";
      following(() => turn.fail(words));
    }
  } finally {
    running = null;
    showRunning();
  }
}

function showRunning() {
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
}

function send(text) {
  if (running || !text.trim() || !parameters()) return;
  $("welcome").hidden = true;
  $("message").value = "";
  fitMessage();
  openSettings(false);
  const turn = new Turn(text.trim());
  turns.push(turn);
  answer(turn);
}

function fitMessage() {
  const field = $("message");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function clearAll() {
  running?.abort();
  turns.length = 0;
  $("turns").replaceChildren();
  $("welcome").hidden = false;
  $("message").focus();
}

// ---- The server's load ----

const POLL_MS = 2000;
let generated = null; // tokens the server had made at the last look, and when that was

async function look() {
  if (!document.hidden) await showLoad().catch(() => showHealth(false, "the server cannot be reached"));
  setTimeout(look, POLL_MS);
}

async function showLoad() {
  const [metrics, health] = await Promise.all([fetch("metrics"), fetch("health")]);
  showHealth(health.ok, health.ok ? "the engine answers" : "the engine does not answer");
  const values = samples(await metrics.text());
  const shown = (name) => values.get(name) ?? "–";
  $("running").textContent = shown("tgi_batch_current_size");
  $("queued").textContent = shown("tgi_queue_size");
  const part = values.get("tgi_kv_blocks_used") / values.get("tgi_kv_blocks_total");
  $("kv").textContent = Number.isFinite(part) ? `${Math.round(100 * part)}%` : "–";
  $("kv-meter").value = part || 0;
  const [now, tokens] = [performance.now(), values.get("tgi_generated_tokens")];
  if (generated && tokens >= generated.tokens) {
    const rate = (tokens - generated.tokens) / ((now - generated.now) / 1000);
    $("throughput").textContent = rate.toFixed(rate < 10 ? 1 : 0);
  }
  generated = tokens === undefined ? null : { now, tokens };
}

/** The metrics without labels, by name. */
function samples(text) {
  return new Map([...text.matchAll(/^(tgi_\w+) (\S+)$/gm)].map(([, name, value]) => [name, Number(value)]));
}

function showHealth(good, words) {
  $("health").className = `dot ${good ? "good" : "bad"}`;
  $("health").setAttribute("aria-label", words);
  $("health").title = words;
}

async function showModel() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) return;
  $("model").textContent = (await response.json()).data[0].id;
  $("model").title = $("model").textContent;
}

// ---- What people do ----

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send($("message").value);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send($("message").value);
  }
});
$("message").addEventListener("input", fitMessage);
$("stop").addEventListener("click", () => {
  running?.abort();
  $("message").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("suggestions").addEventListener("click", (event) => {
  if (event.target.closest("button")) send(event.target.textContent);
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("settings").addEventListener("input", keepSettings);
$("settings-toggle").addEventListener("click", () => openSettings(!$("settings").classList.contains("open")));
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
  keepSettings();
});
darkness.addEventListener("change", nameTheme);
$("clear").addEventListener("click", clearAll);

restoreSettings();
showModel().catch(() => {}); // the dot says that the server cannot be reached
look();
