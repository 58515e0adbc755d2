"use strict";

// The dashboard asks the admin API of the node that served it: once a second for numbers
// while it can be seen, and for events as they come. Whatever comes from the API is put
// into the page as text, never as markup.

const $ = (id) => document.getElementById(id);
const pageSize = 25;
const mostDirectors = 50;
const keptEvents = 200;
const minute = 60_000;

// ---- What is known of now

const now = {
  status: null, fleet: null,
  backends: { offset: 0, total: 0, asked: 0, q: "", state: "", director: "" },
  directors: { offset: 0, total: 0 },
  samples: [], // of /v1/traffic, the newest last
  sickDirectors: [], // names
  subject: null, // of the dialog: {kind, name, opener}
  tokenNeeded: false,
  failedSince: null,
};

// ---- The page's parts

// el makes an element. Attributes that are undefined are left out; strings become text.
function el(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined) continue;
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value);
  }
  e.append(...children.filter((c) => c !== undefined && c !== ""));
  return e;
}

function svg(tag, attributes) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes ?? {})) e.setAttribute(name, value);
  return e;
}

// say changes text only where it differs, so that nothing is selected away or read again.
function say(e, text) {
  text = String(text);
  if (e.textContent !== text) e.textContent = text;
}

function attribute(e, name, value) {
  if (e.getAttribute(name) !== value) e.setAttribute(name, value);
}

// once runs build when what it is made of has changed.
const built = new Map();
function once(key, of, build) {
  const json = JSON.stringify(of);
  if (built.get(key) === json) return;
  built.set(key, json);
  build();
}

// rows keeps a table's body in step with items, one row for each key. Rows live on, so that
// what has the focus keeps it.
function rows(body, items, key, make, update) {
  const focused = document.activeElement;
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  items.forEach((item, i) => {
    const k = key(item);
    let row = old.get(k);
    old.delete(k);
    if (!row) {
      row = make(item);
      row.dataset.key = k;
      row.setAttribute("role", "row");
    }
    update(row, item);
    if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null);
  });
  for (const row of old.values()) row.remove();
  if (focused && focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

// cells makes a row with a cell for each heading; cells know their heading for narrow screens.
function cells(table, ...whole) {
  const row = el("tr");
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    const cell = el(i === 0 ? "th" : "td", { role: i === 0 ? "rowheader" : "cell" });
    if (i === 0) cell.scope = "row";
    else cell.dataset.label = head.firstChild.textContent.trim();
    if (head.classList.contains("r")) cell.className = "r";
    if (whole.includes(i)) cell.classList.add("whole");
    row.append(cell);
  });
  return row;
}

// note says what may be too long for its place: all of it is there where the mouse points.
function note(e, text) {
  say(e, text);
  attribute(e, "title", text);
}

// state makes or changes a state: a word, and a sign by its class.
function state(e, word, kind) {
  attribute(e, "class", "state " + kind);
  say(e, word);
}

const kindOfState = { healthy: "good", sick: "bad", draining: "warn", drain: "warn", ready: "good", starting: "warn", unknown: "bad", auto: "off" };

// ---- Numbers for people

const whole = new Intl.NumberFormat("en");
const number = (n) => whole.format(n);
const rate = (n) => (n === 0 ? "0" : n < 9.95 ? n.toFixed(1) : number(Math.round(n)));
const clock = (t) => new Date(t).toLocaleTimeString("en-GB");
const plural = (n, one, many) => number(n) + " " + (n === 1 ? one : many ?? one + "s");

function seconds(s) {
  if (s < 0.001) return Math.round(s * 1e6) + " µs";
  if (s < 0.01) return (s * 1e3).toFixed(1) + " ms";
  if (s < 1) return Math.round(s * 1e3) + " ms";
  return (s < 10 ? s.toFixed(1) : Math.round(s)) + " s";
}

function lasting(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  return Math.floor(s / 86400) + " d " + Math.floor((s % 86400) / 3600) + " h";
}

function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1000) return (n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)) + " " + unit;
    n /= 1024;
  }
  return Math.round(n) + " TiB";
}

// ---- The API

class Refusal extends Error {
  constructor(status, errors) {
    super(errors.join("; "));
    this.status = status;
    this.errors = errors;
  }
}

const tokenOf = () => sessionStorage.getItem("roster.token");

class Silence extends Error {} // no answer

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  const token = tokenOf();
  if (token) headers.set("Authorization", "Bearer " + token);
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(10_000), ...options, headers });
  } catch (err) {
    throw new Silence(err.name === "TimeoutError" ? "no answer within 10 s" : "no connection");
  }
  if (answer.ok) return answer;
  let errors;
  try {
    errors = (await answer.json()).errors;
  } catch {
    errors = [answer.statusText || "no reason given"]; // of something between the node and us
  }
  if (answer.status === 401) askForToken(errors, token);
  throw new Refusal(answer.status, errors);
}

const json = async (path) => (await ask(path)).json();

// ---- Token

function askForToken(errors, used) {
  if (used !== tokenOf()) return; // another one was entered meanwhile
  now.tokenNeeded = true;
  $("token-button").hidden = false;
  say($("token-why"), used ? "It did not take the one that was entered: " + errors.join("; ") : "One of those in its --admin-token-file. It is kept in this tab only, until that is closed.");
  if (!$("token-dialog").open && !$("token-dialog").dataset.dismissed) $("token-dialog").showModal();
}

$("token-button").addEventListener("click", () => $("token-dialog").showModal());
$("token-dialog").addEventListener("cancel", () => ($("token-dialog").dataset.dismissed = "yes"));
$("token-form").addEventListener("submit", (e) => {
  e.preventDefault();
  sessionStorage.setItem("roster.token", $("token").value.trim());
  $("token").value = "";
  delete $("token-dialog").dataset.dismissed;
  $("token-dialog").close();
  now.tokenNeeded = false;
  say($("token-why"), "Another one of those in its --admin-token-file.");
  tick();
  listen();
});

// ---- Traffic

function takeTraffic(t) {
  const last = now.samples.at(-1);
  if (last && last.started !== t.started) now.samples = []; // another process counts anew
  const classes = t.requests;
  now.samples.push({
    started: t.started, at: Date.parse(t.at), failures: t.failures, buckets: new Map(t.latency.buckets.map((b) => [b.below_seconds, b.count])),
    all: Object.values(classes).reduce((a, b) => a + b, 0), errors: classes["5xx"] ?? 0, received: t.received_bytes, sent: t.sent_bytes,
  });
  const newest = now.samples.at(-1);
  while (now.samples.length > 2 && newest.at - now.samples[0].at > 2 * minute) now.samples.shift();
  say($("active"), number(t.active));
  say($("queued"), number(t.queued));
  say($("clients"), number(t.clients));
  say($("rate-total"), number(newest.all) + " since the node began");
  const short = before(3_000), long = before(minute);
  if (!short) return;
  const took = (newest.at - short.at) / 1000;
  say($("rate"), rate((newest.all - short.all) / took));
  say($("bytes"), bytes((newest.received - short.received) / took) + "/s in, " + bytes((newest.sent - short.sent) / took) + "/s out");
  const requests = newest.all - long.all, errors = newest.errors - long.errors;
  say($("errors"), requests === 0 ? "–" : percent(errors / requests));
  const kinds = Object.entries(newest.failures)
    .map(([kind, n]) => [kind, n - (long.failures[kind] ?? 0)])
    .filter(([, n]) => n > 0)
    .sort((a, b) => b[1] - a[1]);
  say($("errors-kinds"), kinds.length === 0 ? "last minute: no failures" : "last minute: " + kinds.slice(0, 3).map(([kind, n]) => kind.replaceAll("_", " ") + " " + number(n)).join(", "));
  for (const [id, part] of [["p50", 0.5], ["p90", 0.9], ["p99", 0.99]]) {
    const q = quantile(long.buckets, newest.buckets, part);
    say($(id), q === null ? "–" : seconds(q));
  }
  spark($("rate-spark"), (s) => s.all);
  spark($("errors-spark"), (s) => s.errors);
}

// before is the oldest sample within so many milliseconds of the newest; undefined if there
// is only one.
function before(ms) {
  const newest = now.samples.at(-1);
  const found = now.samples.find((s) => newest.at - s.at <= ms);
  return found === newest ? now.samples.at(-2) : found;
}

const percent = (p) => (p === 0 ? "0 %" : p < 0.001 ? "< 0.1 %" : (100 * p).toFixed(p < 0.1 ? 1 : 0) + " %");

// quantile is what that part of the requests between two samples took less than. A bucket
// begins a fifth below its bound, or higher.
function quantile(old, latest, part) {
  const counts = [...latest].map(([below, n]) => [below, n - (old.get(below) ?? 0)]).filter(([, n]) => n > 0).sort((a, b) => a[0] - b[0]);
  const all = counts.reduce((sum, [, n]) => sum + n, 0);
  let left = all * part;
  for (const [below, n] of counts) {
    if (left <= n) return below * (0.8 + 0.2 * (left / n));
    left -= n;
  }
  return null;
}

// spark draws the rate of a counter over up to two minutes, the newest at the right.
function spark(e, of) {
  const end = now.samples.at(-1).at, span = Math.max(30_000, end - now.samples[0].at);
  const points = [];
  for (let i = 1; i < now.samples.length; i++) {
    const a = now.samples[i - 1], b = now.samples[i];
    if (b.at > a.at) points.push([120 - (120 * (end - b.at)) / span, Math.max(0, ((of(b) - of(a)) * 1000) / (b.at - a.at))]);
  }
  const top = Math.max(1, ...points.map((p) => p[1]));
  const line = points.map(([x, y], i) => (i === 0 ? "M" : "L") + x.toFixed(1) + " " + (30.5 - (28 * y) / top).toFixed(1)).join("");
  if (!e.firstChild) e.append(svg("path", { class: "area" }), svg("path"));
  const area = points.length < 2 ? "" : line + "L" + points.at(-1)[0].toFixed(1) + " 32L" + points[0][0].toFixed(1) + " 32Z";
  e.firstChild.setAttribute("d", area);
  e.lastChild.setAttribute("d", points.length < 2 ? "" : line);
}

// ---- The node, and what needs attention

function takeStatus(s) {
  now.status = s;
  say($("node-name"), s.node);
  say($("node-version"), s.version || "development");
  say($("node-revision"), number(s.revision));
  if (s.draining) state($("node-state"), "draining", "warn");
  else state($("node-state"), s.ready ? "ready" : "not ready", s.ready ? "good" : "bad");
  state($("etcd-state"), s.etcd.connected ? "connected" : "lost", s.etcd.connected ? "good" : "bad");
  const c = s.counts;
  document.title = (c.sick > 0 ? "(" + number(c.sick) + " sick) " : "") + s.node + " – roster";
  once("counts", c, () => {
    $("counts").replaceChildren(...["backends", "directors", "routes", "probes", "certificates", "rejected"].map((name) => el("div", {}, el("dt", {}, name), el("dd", { class: "num" }, number(c[name])))));
  });
  takeFaults(s);
}

// takeFaults lists the definitions that are not as they were meant.
function takeFaults(s) {
  const groups = [
    ["Rejected", s.counts.rejected, "bad", s.rejected.map((r) => [r.key, [...r.errors, "revision " + r.revision + "; " + (r.in_effect ? "revision " + r.in_effect + " is in effect instead" : "nothing is in effect")]])],
    ["Dangling", s.counts.dangling, "warn", s.dangling.map((d) => [d.key, ["refers to " + d.missing + ", which is not defined"]])],
    ["Cycles", s.cycles.length, "warn", s.cycles.map((c) => [c.key, ["has the member " + c.member + ", which leads back to it"]])],
    ["Warnings", s.warnings.length, "warn", s.warnings.map((w) => [w.key, w.warnings])],
  ].filter(([, n]) => n > 0);
  once("faults", groups, () => {
    const closed = new Set([...$("faults").querySelectorAll("details:not([open])")].map((d) => d.dataset.key));
    $("faults").replaceChildren(...groups.map(([title, n, kind, items]) => {
      const list = el("ul", {}, ...items.map(([key, texts]) => el("li", {}, el("span", { class: "mono" }, key), ...texts.map((t) => el("div", {}, t)))));
      if (n > items.length) list.append(el("li", {}, "and " + number(n - items.length) + " more"));
      const group = el("details", { class: "fault", "data-key": title }, el("summary", {}, el("span", { class: "state " + kind }, title + " " + number(n))), list);
      group.open = !closed.has(title);
      return group;
    }));
  });
}

function takeProblems() {
  const s = now.status, f = now.fleet, list = [];
  if (s) {
    if (s.draining) list.push(["warn", "This node is draining: it ends."]);
    else if (!s.ready) list.push(["bad", "This node is not ready: " + s.waiting + "."]);
    if (!s.etcd.connected) list.push(["bad", "etcd does not answer this node, which serves on with revision " + number(s.revision) + (s.etcd.error ? ": " + s.etcd.error : ".")]);
    if (s.snapshot?.in_use) list.push(["bad", "This node serves a snapshot, of " + clock(new Date(s.snapshot.written)) + ": since it started etcd has given it nothing."]);
    if (s.snapshot?.error) list.push(["warn", "The snapshot is not written: " + s.snapshot.error]);
    if (s.held_list) list.push(["bad", "Held: " + s.held_list]);
    if (s.held?.backends > 0) list.push(["bad", plural(s.held.backends, "removed backend") + (s.held.backends === 1 ? " is" : " are") + " held and served on since " + clock(new Date(s.held.since)) + ": " + s.held.names.slice(0, 5).join(", ") + (s.held.backends > 5 ? ", …" : "") + ". If that was meant: roster ack " + s.held.revision]);
    if (s.presence?.error) list.push(["warn", "The fleet does not know how far this node is: " + s.presence.error]);
  }
  if (f?.error) list.push(["warn", f.error]);
  for (const m of f?.items ?? []) {
    if (m.state === "unknown") list.push(["bad", "Node " + m.node + " is unknown: its presence has ended, and it may be serving by old definitions. Once it is sure to be gone: roster forget " + m.node]);
  }
  for (const d of f?.differences ?? []) {
    list.push(["bad", "Nodes differ at revision " + number(d.revision) + ": " + Object.entries(d.digests).map(([digest, nodes]) => digest.slice(0, 12) + " on " + nodes.join(", ")).join("; ")]);
  }
  for (const name of now.sickDirectors) list.push(["bad", "Director " + name + " has no backend to send requests to."]);
  if (s?.counts.rejected > 0) list.push(["warn", plural(s.counts.rejected, "definition") + (s.counts.rejected === 1 ? " is" : " are") + " rejected; what was valid before is in effect. Definitions has the errors."]);
  once("problems", list, () => {
    $("problems").replaceChildren(...list.map(([kind, text]) => el("li", { class: kind }, el("span", { class: "state " + kind }, el("span", { class: "hidden" }, kind === "bad" ? "fault: " : "warning: ")), text)));
    $("problems-section").hidden = list.length === 0;
  });
}

// ---- Fleet

async function takeFleet() {
  if (takeFleet.running) return;
  takeFleet.running = true;
  try {
    showFleet(await json("/v1/fleet"));
  } catch (err) {
    if (err instanceof Refusal && err.status !== 401) {
      now.fleet = { ...(now.fleet ?? { items: [], differences: [] }), error: err.message };
      say($("fleet-sum"), now.fleet.items.length ? "as last known" : "");
    }
  } finally {
    takeFleet.running = false;
    takeProblems();
  }
}

function showFleet(f) {
  now.fleet = f;
  const table = $("fleet"), most = 100;
  const ready = f.items.filter((m) => m.state === "ready").length;
  say($("fleet-sum"), plural(f.items.length, "node") + ", " + number(ready) + " ready" + (f.items.length > most ? "; the first " + most + " are shown" : ""));
  const differ = new Map();
  for (const d of f.differences) for (const nodes of Object.values(d.digests)) for (const n of nodes) differ.set(n, d.revision);
  rows(table.tBodies[0], f.items.slice(0, most), (m) => m.node + "/" + m.instance, (m) => {
    const row = cells(table);
    row.cells[0].append(el("span", {}, m.node), el("span", { class: "note" }));
    row.cells[1].append(el("span"));
    row.cells[5].append(el("span", { class: "mono" }), el("span", { class: "note" }));
    return row;
  }, (row, m) => {
    const [name, is, version, revision, lag, digest, rejected, listens, up] = row.cells;
    const p = m.presence ?? {}, live = m.state !== "unknown", dash = (v) => (live ? v : "–");
    say(name.lastChild, m.instance === f.instance ? "this node" : "");
    state(is.firstChild, m.state, kindOfState[m.state]);
    say(version, p.version || "–");
    say(revision, dash(number(p.revision ?? 0)));
    say(lag, dash(number(m.lag)));
    say(digest.firstChild, dash((p.digest ?? "").slice(0, 12)));
    const differs = live && differ.get(m.node) === p.revision && differ.has(m.node);
    attribute(digest.lastChild, "class", differs ? "state bad" : "note");
    say(digest.lastChild, differs ? "differs" : "");
    say(rejected, dash(number((p.rejected?.length ?? 0) + (p.more_rejected ?? 0))));
    say(listens, (p.listen ?? []).join(", ") || "–");
    say(up, dash(p.started ? lasting(Date.now() - Date.parse(p.started)) : "–"));
  });
}

// ---- Backends

function addressOf(d) {
  if (typeof d === "string") return d; // of a definition that may not be shown
  if (d.none) return "none";
  if (d.path) return d.path;
  const host = d.host ?? "";
  if (!d.port) return host; // which may have one in it
  return (host.includes(":") && !host.startsWith("[") ? "[" + host + "]" : host) + ":" + d.port; // an address of IPv6
}

const labelsOf = (d) => Object.entries((typeof d === "object" && d.labels) || {}).map(([k, v]) => k + "=" + v);

// wordOf is the state of a backend in one word, and why.
function wordOf(h) {
  const told = h.admin !== "auto";
  if (h.admin === "drain") return ["draining", "by operator" + (h.reason ? ": " + h.reason : "")];
  if (told) return [h.state, "by operator" + (h.reason ? ": " + h.reason : "")];
  if (h.reason) return [h.state, h.reason];
  if (!h.probe) return [h.state, "not probed"];
  if (h.probe.carried) return [h.state, "carried over from before the check"];
  return [h.state, h.state === "sick" || h.probe.stage ? h.probe.text ?? "" : ""];
}

// strip draws the last 64 probes: a high bar is a good one, a low bar a bad one.
function strip(e, probe) {
  const row = probe.rows?.find((r) => r.name === "H")?.row ?? "";
  const parts = { good: "", bad: "", none: "" };
  [...row].forEach((c, i) => {
    const age = row.length - 1 - i;
    const kind = c === "H" ? "good" : age < probe.probes ? "bad" : "none";
    const height = { good: 16, bad: 8, none: 2 }[kind];
    parts[kind] += "M" + i * 4 + " " + (17 - height) + "h3v" + height + "h-3z";
  });
  if (!e.firstChild) e.append(svg("path", { class: "good" }), svg("path", { class: "bad" }), svg("path", { class: "none" }));
  for (const path of e.children) attribute(path, "d", parts[path.getAttribute("class")]);
  const made = Math.min(probe.probes, 64), bad = [...row.slice(64 - made)].filter((c) => c !== "H").length;
  attribute(e, "aria-label", made === 0 ? "no probe yet" : bad === 0 ? "last " + made + " probes all good" : bad + " of the last " + made + " probes bad, the newest is " + (row.at(-1) === "H" ? "good" : "bad"));
}

async function takeBackends() {
  const b = now.backends, asked = ++b.asked;
  const query = new URLSearchParams({ limit: pageSize, offset: b.offset });
  for (const name of ["q", "state", "director"]) if (b[name]) query.set(name, b[name]);
  let found;
  try {
    found = await json("/v1/search/backends?" + query);
  } catch (err) {
    if (err instanceof Refusal && err.status === 400 && b.director) {
      filterDirector(""); // it was deleted
      return;
    }
    throw err;
  }
  if (asked !== b.asked) return; // something else was looked for meanwhile
  b.total = found.total;
  if (found.items.length === 0 && b.offset > 0) {
    b.offset = Math.max(0, Math.floor((found.total - 1) / pageSize) * pageSize);
    return takeBackends();
  }
  const c = found.counts;
  for (const name of ["all", "sick", "draining", "healthy", "overridden"]) say($("count-" + name), number(c[name]));
  say($("backends-sum"), "the sick ones first");
  showPages($("previous"), $("next"), $("page-at"), b, found.items.length);
  $("no-backends").hidden = found.items.length > 0;
  $("backend-table").parentElement.hidden = found.items.length === 0;
  say($("no-backends"), b.q || b.state || b.director ? "No backend is like that." : "No backends are defined. The first: roster put backend web-1 host=10.0.0.7 port=8080");
  const table = $("backend-table"), at = performance.now();
  rows(table.tBodies[0], found.items, (i) => i.name, (i) => {
    const row = cells(table, 2);
    row.cells[0].append(el("button", { type: "button", class: "name", "aria-haspopup": "dialog", onclick: (e) => open("backend", i.name, e.currentTarget) }, i.name), el("span", { class: "note" }));
    row.cells[1].append(el("span"), el("span", { class: "note" }));
    const image = svg("svg", { class: "strip", viewBox: "0 0 255 18", preserveAspectRatio: "none", role: "img" });
    row.cells[2].append(image, el("span", { class: "zero" }));
    row.cells[5].append(el("span"), el("span"));
    return row;
  }, (row, i) => {
    const [name, is, probes, good, took, perSecond, active, queued, connections] = row.cells;
    const d = i.definition, h = i.health, p = h.probe;
    note(name.lastChild, [addressOf(d), ...labelsOf(d)].join("  "));
    const [word, why] = wordOf(h);
    state(is.firstChild, word, kindOfState[word]);
    note(is.lastChild, ["for " + lasting(Date.now() - Date.parse(h.since)), why].filter(Boolean).join(", "));
    probes.firstChild.toggleAttribute("hidden", !p);
    if (p) strip(probes.firstChild, p);
    say(probes.lastChild, p ? "" : "no probe");
    say(good, p ? p.good + " of " + p.window : "–");
    attribute(good, "title", p ? "healthy from " + p.threshold + " on" : "");
    say(took, p?.average_seconds ? seconds(p.average_seconds) : "–");
    const was = row.was;
    if (was && i.requests.total >= was.total && at - was.at > 300) {
      const over = (n, old) => ((n - old) * 1000) / (at - was.at);
      const r = over(i.requests.total, was.total);
      row.rate = row.rate === undefined || r === 0 ? r : (row.rate + r) / 2;
      row.failing = over(i.requests.failed, was.failed);
    }
    if (!was || at - was.at > 300) row.was = { at, total: i.requests.total, failed: i.requests.failed };
    say(perSecond.firstChild, row.rate === undefined ? "–" : rate(row.rate));
    state(perSecond.lastChild, row.failing > 0 ? rate(row.failing) + " failed" : "", row.failing > 0 ? "bad failing" : "failing");
    const limit = typeof d === "object" ? d.max_connections : 0;
    say(active, number(i.requests.active) + (limit ? " of " + number(limit) : ""));
    say(queued, number(i.requests.queued));
    say(connections, number(i.connections.active + i.connections.idle));
    attribute(connections, "title", number(i.connections.active) + " in use, " + number(i.connections.idle) + " idle");
  });
}

function showPages(previous, next, at, list, shown) {
  const last = list.offset + shown;
  say(at, shown === 0 ? "" : number(list.offset + 1) + " to " + number(last) + " of " + number(list.total));
  previous.disabled = list.offset === 0;
  next.disabled = last >= list.total;
  previous.parentElement.hidden = list.total <= pageSize;
}

function turn(by) {
  now.backends.offset = Math.max(0, now.backends.offset + by * pageSize);
  refreshBackends();
  $("backends").scrollIntoView({ block: "start" });
}

function refreshBackends() {
  takeBackends().catch(failed);
}

let typing;
$("q").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    Object.assign(now.backends, { q: $("q").value.trim(), offset: 0 });
    refreshBackends();
  }, 120);
});
for (const radio of document.getElementsByName("state")) {
  radio.addEventListener("change", () => {
    Object.assign(now.backends, { state: radio.value, offset: 0 });
    refreshBackends();
  });
}
$("filter").addEventListener("submit", (e) => e.preventDefault());
$("previous").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));
$("director-filter").addEventListener("click", () => {
  filterDirector("");
  $("q").focus();
});
document.addEventListener("keydown", (e) => {
  const typed = e.target.closest("input, select, textarea, dialog");
  if (e.key === "/" && !typed && !e.ctrlKey && !e.metaKey && !e.altKey) {
    e.preventDefault();
    $("q").focus();
  }
});

function filterDirector(name) {
  Object.assign(now.backends, { director: name, offset: 0 });
  $("director-filter").hidden = !name;
  say($("director-filter"), "of " + name + " ✕");
  attribute($("director-filter"), "aria-label", "Only of director " + name + ": show all again");
  refreshBackends();
}

// ---- Directors

async function takeDirectors() {
  const found = await json("/v1/search/directors?limit=" + mostDirectors);
  now.sickDirectors = found.items.filter((d) => d.health.state !== "healthy" && d.health.admin === "auto").map((d) => d.name);
  const lacking = found.items.filter((d) => d.available < d.total).length;
  say($("directors-sum"), found.total > found.items.length ? "the first " + found.items.length + " of " + number(found.total) + ", the sick ones first" : found.total === 0 ? "" : lacking > 0 ? number(lacking) + " of " + number(found.total) + " lack a member" : "all members available");
  $("no-directors").hidden = found.total > 0;
  const table = $("directors");
  table.parentElement.hidden = found.total === 0;
  rows(table.tBodies[0], found.items, (d) => d.name, (d) => {
    const row = cells(table, 4);
    row.cells[0].append(el("button", { type: "button", class: "name", "aria-haspopup": "dialog", onclick: (e) => open("director", d.name, e.currentTarget) }, d.name));
    row.cells[1].append(el("span"), el("span", { class: "note" }));
    row.cells[3].append(el("button", { type: "button", class: "name num", onclick: () => {
      filterDirector(d.name);
      $("backends").scrollIntoView({ block: "start" });
      $("backends").focus({ preventScroll: true });
    } }));
    row.cells[4].classList.add("wrap");
    row.cells[4].append(el("ul", { class: "members" }));
    return row;
  }, (row, d) => {
    const h = d.health;
    const word = h.admin === "drain" ? "draining" : h.state;
    state(row.cells[1].firstChild, word, kindOfState[word]);
    say(row.cells[1].lastChild, h.admin === "auto" ? "" : "by operator" + (h.reason ? ": " + h.reason : ""));
    say(row.cells[2], d.type);
    const button = row.cells[3].firstChild;
    say(button, number(d.available) + " of " + number(d.total));
    attribute(button, "aria-label", number(d.available) + " of " + number(d.total) + " members available: show the backends of " + d.name);
    const list = row.cells[4].firstChild, json = JSON.stringify([d.members, d.total]);
    if (row.dataset.members === json) return;
    row.dataset.members = json;
    list.replaceChildren(...d.members.map((m) => {
      const word = m.kind === "" ? "not defined" : m.state;
      return el("li", { class: "state " + (m.kind === "" ? "warn" : kindOfState[m.state]) }, m.name, m.state === "healthy" ? el("span", { class: "hidden" }, " healthy") : " " + word, m.weight === 1 ? "" : el("small", {}, " ×" + m.weight));
    }));
    if (d.total > d.members.length) list.append(el("li", {}, el("small", {}, "and " + number(d.total - d.members.length) + " more")));
  });
}

// ---- One backend or director, and what operators say of it

async function open(kind, name, opener) {
  now.subject = { kind, name, opener };
  say($("subject-title"), name);
  $("subject-state").replaceChildren();
  $("subject-detail").replaceChildren();
  $("health-form").reset();
  $("by").value = sessionStorage.getItem("roster.by") ?? "";
  $("health-answer").replaceChildren();
  built.delete("subject");
  choose();
  $("subject").showModal();
  try {
    await takeSubject();
  } catch (err) {
    failed(err);
  }
}

async function takeSubject() {
  const of = now.subject;
  if (!of || !$("subject").open) return;
  let item;
  try {
    item = await json("/v1/" + of.kind + "s/" + encodeURI(of.name));
  } catch (err) {
    if (err instanceof Refusal && err.status === 404 && of === now.subject) {
      say($("subject-state"), "It is not defined any more.");
      $("subject-detail").replaceChildren();
      return;
    }
    throw err;
  }
  if (of !== now.subject) return;
  const h = item.health, p = h.probe;
  const [word, why] = of.kind === "backend" ? wordOf(h) : [h.admin === "drain" ? "draining" : h.state, h.reason ?? ""];
  const line = $("subject-state");
  if (!line.firstChild || line.children.length !== 2) line.replaceChildren(el("span"), el("span"));
  state(line.firstChild, word, kindOfState[word]);
  say(line.lastChild, (why ? " – " + why : "") + (h.since ? ", since " + clock(h.since) : ""));
  const pairs = [["Operator says", h.admin]];
  if (of.kind === "backend") {
    pairs.push(["Address", addressOf(item.definition)]);
    if (p) {
      pairs.push(["Check", p.check], ["Verdict", p.good + " of the last " + p.window + " good, healthy from " + p.threshold]);
      pairs.push(["Last probe", p.at ? (p.stage ? "bad (" + p.stage + "): " : "good: ") + (p.text ?? "") + ", at " + clock(p.at) + ", " + seconds(p.last_seconds) : "none yet"]);
      if (p.users > 1) pairs.push(["Shared by", p.users + " backends with the same check"]);
    }
    pairs.push(["Requests", number(item.requests.active) + " in progress, " + number(item.requests.queued) + " queued, " + number(item.requests.total) + " so far, of which " + number(item.requests.failed) + " failed"]);
    pairs.push(["Connections", number(item.connections.active) + " in use, " + number(item.connections.idle) + " idle"]);
  }
  pairs.push(["Revision", number(item.revision)]);
  if (h.admin === "drain" && of.kind === "backend") pairs.push(...draining(of.name));
  const history = (p?.rows ?? []).filter((r) => r.name === "H" || /[^-]/.test(r.row));
  const definition = JSON.stringify(item.definition, null, 2);
  once("subject", [pairs, history, definition], () => {
    const parts = [el("dl", { class: "detail" }, ...pairs.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]))];
    if (history.length > 0) {
      const text = "Oldest ================================================== Newest\n" + history.map((r) => r.row + "  " + r.label).join("\n");
      parts.push(el("pre", { tabindex: "0", role: "region", "aria-label": "History of probes, as Varnish shows it" }, text));
    }
    parts.push(el("details", {}, el("summary", {}, "Definition"), el("pre", { tabindex: "0", role: "region", "aria-label": "Definition" }, definition)));
    const old = $("subject-detail").querySelector("details");
    if (old?.open) parts.at(-1).open = true;
    $("subject-detail").replaceChildren(...parts);
  });
}

// draining says what each node still has with a backend, as far as the fleet was heard. What
// is not said is not taken for nothing.
function draining(name) {
  return (now.fleet?.items ?? []).map((m) => {
    const p = m.presence, l = p?.leaving?.find((l) => l.name === name);
    let left = "nothing any more";
    if (m.state === "unknown") left = "not known, its presence has ended";
    else if (!l) left = p.more_leaving ? "not known, it drains more backends than it lists" : "it has not said yet that it drains";
    else if (!l.settled || l.active || l.queued || l.connections) left = plural(l.active, "request") + ", " + number(l.queued) + " queued, " + plural(l.connections, "connection");
    return ["On " + m.node, left];
  });
}

const chosen = () => document.querySelector("input[name=word]:checked")?.value;

function choose() {
  const name = now.subject?.name, button = $("set-health");
  const text = { drain: "Drain " + name, sick: "Set " + name + " sick", healthy: "Set " + name + " healthy", auto: "Set " + name + " to auto" }[chosen()];
  button.disabled = !text;
  button.classList.toggle("danger", chosen() === "sick" || chosen() === "drain");
  say(button, text ?? "Choose a state");
}

for (const radio of document.getElementsByName("word")) radio.addEventListener("change", choose);

function reply(kind, text, list) {
  const p = el("div", { class: "answer " + kind }, text);
  if (list) p.append(el("ul", {}, ...list.map((t) => el("li", {}, t))));
  $("health-answer").replaceChildren(p);
  p.scrollIntoView({ block: "nearest" });
}

$("health-form").addEventListener("submit", async (e) => {
  e.preventDefault();
  const word = chosen(), of = now.subject;
  if (!word || !of) return;
  const by = $("by").value.trim(), reason = $("reason").value.trim();
  sessionStorage.setItem("roster.by", by);
  const value = { state: word, by: by || "dashboard" };
  if (reason) value.reason = reason;
  $("set-health").disabled = true;
  try {
    const written = await (await ask("/v1/health/" + encodeURI(of.name), { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) })).json();
    if (of !== now.subject) return;
    reply("good", of.name + " is set to " + word + ", at revision " + number(written.revision) + ".");
    document.querySelector("input[name=word]:checked").checked = false;
    choose();
    soon();
  } catch (err) {
    if (of !== now.subject) return;
    if (err instanceof Refusal) reply("bad", of.name + " was not changed: the node answers " + err.status + ".", err.errors);
    else reply("bad", "The node did not answer (" + err.message + "): look at the state of " + of.name + " before you try again.");
    choose();
  }
});

$("subject-close").addEventListener("click", () => $("subject").close());
$("subject").addEventListener("close", () => {
  now.subject?.opener.focus(); // some browsers do not focus a button that is clicked
  now.subject = null;
});

// ---- Events

let stream = null; // AbortController of the connection; null: none is wanted
let lastEvent = "";

async function listen() {
  if (stream || document.hidden || now.tokenNeeded) return;
  const mine = (stream = new AbortController());
  let pause = 1000;
  while (stream === mine && !now.tokenNeeded) {
    state($("live"), "connecting", "off");
    try {
      const answer = await ask("/v1/events", { headers: lastEvent ? { "Last-Event-ID": lastEvent } : {}, signal: mine.signal });
      pause = 1000;
      state($("live"), "live", "good");
      await read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
    } catch (err) {
      if (mine.signal.aborted) break;
      pause = Math.min(2 * pause, 10_000);
    }
    if (stream !== mine) break;
    state($("live"), "reconnecting", "warn");
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
  if (stream === mine) stream = null; // a token is needed
}

// read takes in server-sent events until the connection ends (WHATWG HTML 9.2.6).
async function read(reader) {
  let text = "", kind = "", data = "", id = lastEvent;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) {
      if (line === "") {
        lastEvent = id;
        if (data) take(kind, JSON.parse(data));
        kind = data = "";
        continue;
      }
      const colon = line.indexOf(":");
      const field = line.slice(0, colon), content = line.slice(colon + 1).replace(/^ /, "");
      if (field === "event") kind = content;
      else if (field === "data") data += content;
      else if (field === "id") id = content;
    }
  }
}

let waiting = [];

// take shows an event; those that come together are shown together.
function take(kind, e) {
  const item = {
    health: () => [kindOfState[e.state], e.backend + " is " + e.state, ["probe: " + e.text, e.good + " of " + e.window + " good"].filter(Boolean).join(", ")],
    override: () => [e.state === "auto" ? "off" : kindOfState[e.state], e.name + " is set to " + e.state, [e.by && "by " + e.by, e.reason].filter(Boolean).join(": ")],
    applied: () => ["off", "revision " + number(e.revision) + " is in effect", [e.puts && plural(e.puts, "put"), e.deletes && plural(e.deletes, "delete")].filter(Boolean).join(", ")],
    lost: () => ["warn", (e.count ? plural(e.count, "event") : "Some events") + " missed", "the numbers are up to date"],
  }[kind]?.();
  if (!item) return;
  if (waiting.length === 0) setTimeout(showEvents, 200);
  waiting.push([e.at ?? Date.now(), ...item]);
  soon();
}

function showEvents() {
  const list = $("events");
  const fresh = waiting.slice(-keptEvents).map(([at, kind, text, note]) => el("li", {}, el("time", { datetime: new Date(at).toISOString() }, clock(at)), el("div", {}, el("span", { class: "state " + kind }, text), note ? el("div", { class: "note" }, note) : "")));
  waiting = [];
  $("no-events").hidden = true;
  list.prepend(...fresh.reverse());
  while (list.children.length > keptEvents) list.lastChild.remove();
}

// ---- Time

let ticking = false, again = false, timer, count = 0, began = 0;

// tick asks for everything that is shown, once a second while the page can be seen.
async function tick() {
  clearTimeout(timer);
  if (document.hidden || now.tokenNeeded) return;
  if (ticking) {
    again = true;
    return;
  }
  ticking = true;
  began = performance.now();
  try {
    if (count++ % 2 === 0) {
      takeFleet();
      await takeDirectors();
    }
    await Promise.all([json("/v1/status").then(takeStatus), json("/v1/traffic").then(takeTraffic), takeBackends(), takeSubject()]);
    now.failedSince = null;
    $("banner").hidden = true;
    takeProblems();
  } catch (err) {
    failed(err);
  } finally {
    ticking = false;
    clearTimeout(timer);
    const took = performance.now() - began; // a node that takes long is asked less often
    timer = setTimeout(tick, again ? 100 : Math.max(4 * took, 1000 - took));
    again = false;
  }
}

// failed says that the numbers are old.
function failed(err) {
  if (err instanceof Refusal && err.status === 401) {
    say($("banner"), "This node asks for a token. The button Token is for that.");
  } else {
    now.failedSince ??= new Date();
    if (!(err instanceof Refusal || err instanceof Silence)) console.error(err); // a fault of this page
    say($("banner"), "The node has not answered as it should since " + clock(now.failedSince) + " (" + (err.status ? err.status + " " : "") + err.message + "). What is shown is from before.");
  }
  $("banner").hidden = false;
}

// soon asks again shortly: something has changed. Twice a second is the most.
let hurried;
function soon() {
  if (hurried) return;
  hurried = setTimeout(() => {
    hurried = undefined;
    count = 0;
    tick();
  }, Math.max(150, 500 - (performance.now() - began)));
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    stream?.abort();
    stream = null;
    state($("live"), "paused", "off");
  } else {
    tick();
    listen();
  }
});

// ---- Theme

$("theme").value = localStorage.getItem("roster.theme") ?? "";
function paint() {
  const theme = $("theme").value;
  if (theme) {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("roster.theme", theme);
  } else {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("roster.theme");
  }
}
$("theme").addEventListener("change", paint);
paint();

// ---- Begin

// Tables keep their roles where narrow screens lay them out as blocks.
for (const table of document.querySelectorAll("table")) {
  table.setAttribute("role", "table");
  for (const part of [table.tHead, ...table.tBodies]) part.setAttribute("role", "rowgroup");
  table.tHead.rows[0].setAttribute("role", "row");
  for (const head of table.tHead.rows[0].cells) head.setAttribute("role", "columnheader");
}
tick();
listen();
