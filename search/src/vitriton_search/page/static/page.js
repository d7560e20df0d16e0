// The page of `vitriton search serve`. What is shown is the part of the address behind #, so that it can be shared:
// #/search?text=…, #/search?id=…, #/duplicates?threshold=…, #/map?at=x,y,zoom&by=column&group=value; the first
// three may have where=….
// Texts of a store come into the page by textContent and attributes alone.

import { MapView } from "./map.js";

const HITS = 48; // asked for at first, and more at each "Show more"
const MAX_HITS = 500;
const MAX_UPLOAD_BYTES = 32 * 1024 * 1024;
const PATIENCE_MS = 150; // before the page says that it is waiting
const TITLES = { search: "Search", duplicates: "Duplicates", map: "Map" };

const at = (id) => document.getElementById(id);
const photos = new Map(); // pictures that were searched for since the page was opened, by number
let info = null;
let map = null;
let running = null; // the AbortController of what is being asked

// --- The server -----------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(message, field, status) {
    super(message);
    this.field = field;
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The page's own server does not answer; is `vitriton search serve` still running?", null, 0);
  }
  if (answer.status === 204) return null;
  const said = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Refused(said.error, said.field, answer.status);
  return said;
}

const asJson = (value) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

// --- The state in the address ---------------------------------------------------------------------------------------

function state() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  const given = new URLSearchParams(query);
  const view = path.startsWith("/") && TITLES[path.slice(1)] ? path.slice(1) : "search";
  return { view, ...Object.fromEntries(given) };
}

function address({ view, ...parts }) {
  const given = Object.entries(parts).filter(([, value]) => value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

function go(next) {
  const to = address(next);
  if (to === location.hash) show();
  else location.hash = to;
}

// --- Parts of the page ----------------------------------------------------------------------------------------------

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const nameOf = (row) => {
  let path = row.source ?? row.id;
  if (path.startsWith("file://")) path = decodeURIComponent(path.slice(7).replace(/%(?![0-7])/g, "%25"));
  if (path.startsWith("data:")) return "a picture in a data: URI";
  return path.split("/").filter(Boolean).pop() ?? path;
};

function bytes(count) {
  const unit = Math.min(3, Math.max(0, Math.floor(Math.log10(count || 1) / 3)));
  const value = count / 1000 ** unit;
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${["B", "kB", "MB", "GB"][unit]}`;
}

const counted = (value) => value.toLocaleString("en");

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return whole < 3600 ? `${Math.floor(whole / 60)}:${two(whole % 60)}` : `${Math.floor(whole / 3600)}:${two((whole / 60) % 60)}:${two(whole % 60)}`;
}

function detailsOf(row) {
  if (row.time_s != null) {
    const { start_s, end_s, frames } = row.span ?? {};
    return `at ${clock(row.time_s)}${frames > 1 ? `, of ${frames} from ${clock(start_s)} to ${clock(end_s)}` : ""}`;
  }
  const parts = [];
  if (row.width && row.height) parts.push(`${row.width} × ${row.height}`);
  if (row.bytes != null) parts.push(bytes(row.bytes));
  if (row.taken) parts.push(row.taken.slice(0, 10));
  return parts.join(" · ");
}

/** The name of a row where its time is not beside it. */
const titleOf = (row) =>
  row.time_s == null ? nameOf(row).replace(/#t=([\d.]+)$/, (_, time) => ` at ${clock(time)}`) : `${nameOf(row)} at ${clock(row.time_s)}`;
const isUrl = (row) => /^https?:\/\//i.test(row.source ?? row.id);
const thumbnailOf = (id) => `api/thumbnail?id=${encodeURIComponent(id)}`;

/** A thumbnail that says in words why it cannot be shown, if it cannot. */
function picture(row, attributes = {}) {
  if (isUrl(row)) return made("span", { class: "absent" }, `${titleOf(row)}: at a URL, from which this page loads nothing`);
  const image = made("img", { width: 320, height: 320, loading: "lazy", decoding: "async", alt: titleOf(row), ...attributes });
  image.addEventListener("error", async () => {
    const reason = await ask(image.src).then(() => "cannot be shown", (error) => error.message);
    image.replaceWith(made("span", { class: "absent" }, `${titleOf(row)}: ${reason}`));
  });
  image.src = thumbnailOf(row.id);
  return image;
}

function tile(row, where) {
  const name = nameOf(row);
  const like = made("a", { class: "picture", href: address({ view: "search", id: row.id, where }), "aria-label": `More like ${titleOf(row)}` });
  like.append(picture(row));
  const line = made("span", { class: "line" });
  if (row.score != null) line.append(made("span", { class: "score" }, row.score.toFixed(3)));
  line.append(nameLink(row, name));
  return made("li", {}, like, made("div", { class: "caption" }, line, made("span", { class: "more" }, detailsOf(row))));
}

/** The name of a row, which leads to its file: a picture, or a film from its time on. */
function nameLink(row, name) {
  const label = { class: "name", title: row.source ?? row.id };
  const opens = { ...label, target: "_blank" };
  if (isUrl(row)) return made("a", { ...opens, href: row.source, rel: "noopener noreferrer" }, name);
  if (!/^(\/|file:)/.test(row.source ?? "")) return made("span", label, name);
  const id = encodeURIComponent(row.id);
  if (row.time_s == null) return made("a", { ...opens, href: `api/photo?id=${id}` }, name);
  return made("a", { ...opens, href: `api/film?id=${id}#t=${row.time_s}`, "aria-label": `${name}, from ${clock(row.time_s)}` }, name);
}

function say(text) {
  at("status").textContent = text;
}

function complain(error) {
  for (const id of ["where", "text", "threshold"]) at(id).removeAttribute("aria-invalid");
  note("where-note", whereHelp(), false);
  at("alert").hidden = true;
  if (!error) return;
  if (error.field === "where") {
    at("where").setAttribute("aria-invalid", "true");
    note("where-note", error.message, true);
    say("The condition is not understood; see the text below it.");
    return;
  }
  if (error.field && at(error.field)) at(error.field).setAttribute("aria-invalid", "true");
  at("alert").textContent = error.message;
  at("alert").hidden = false;
  say("");
}

function note(id, text, isWrong) {
  at(id).textContent = text;
  at(id).classList.toggle("wrong", isWrong);
}

function whereHelp() {
  return info ? `Columns: ${Object.keys(info.columns).join(", ")}. Leave it empty for all rows.` : "\u00a0";
}

function textHelp() {
  if (info.problem) return info.problem;
  if (!info.towers.includes("text"))
    return `The model ${info.model} has no text tower, so it cannot search by text. Choose, drop or paste a picture.`;
  if (!info.towers.includes("image")) return `The model ${info.model} embeds texts only.`;
  return "Or drop a picture anywhere on the page, or paste one.";
}

// --- Views ----------------------------------------------------------------------------------------------------------

async function show({ moved = false } = {}) {
  if (!info) return;
  const now = state();
  for (const part of document.querySelectorAll("main [data-in]"))
    part.classList.toggle("elsewhere", !part.dataset.in.split(" ").includes(now.view));
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === now.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  at("form").hidden = now.view === "map";
  at("title").textContent = TITLES[now.view];
  document.title = `${TITLES[now.view]}: ${info.store} – vitriton search`;
  at("where").value = now.where ?? "";
  at("text").value = now.text ?? "";
  at("threshold").value = now.threshold ?? "0.95";
  running?.abort();
  idle();
  running = new AbortController();
  complain(null);
  say("");
  const { signal } = running;
  const slow = setTimeout(() => !signal.aborted && say(now.view === "search" ? "Searching…" : "Computing…"), PATIENCE_MS);
  try {
    await { search: showSearch, duplicates: showDuplicates, map: showMap }[now.view](now, signal);
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    idle();
    if (error.status === 401) return logIn();
    clear(now.view);
    complain(error);
  } finally {
    clearTimeout(slow);
  }
  if (moved && !signal.aborted && document.activeElement === document.body) at("title").focus({ preventScroll: true });
}

const idle = () => ["results", "groups"].forEach((id) => at(id).removeAttribute("aria-busy"));

function clear(view) {
  if (view === "search") {
    at("results").replaceChildren();
    at("more").hidden = true;
  } else if (view === "duplicates") {
    at("groups").replaceChildren();
    at("curve").hidden = true;
  }
}

async function showSearch(now, signal) {
  showQuestion(now);
  if (now.id === undefined && now.text === undefined && now.photo === undefined) {
    clear("search");
    say(info.rows ? "Nothing has been searched for yet." : "The store is empty: fill it with `vitriton search index`.");
    return;
  }
  const k = Math.min(Number(now.k) || HITS, MAX_HITS);
  const query = new URLSearchParams({ k, ...(now.where ? { where: now.where } : {}) });
  at("results").setAttribute("aria-busy", "true");
  const found = await ask(`api/query?${query}`, { ...body(now), signal });
  at("results").removeAttribute("aria-busy");
  at("results").replaceChildren(...found.hits.map((row) => tile(row, now.where)));
  at("more").hidden = found.hits.length < k || k >= MAX_HITS;
  const { embed_ms, search_ms } = found.timing;
  const times = `${now.id === undefined ? "embedding" : "reading its vector"} ${embed_ms} ms, search ${search_ms} ms`;
  const count = found.hits.length === 1 ? "1 result" : `${found.hits.length} results`;
  say(found.hits.length ? `${count}; ${times}` : `No row meets the condition; ${times}`);
}

function body(now) {
  if (now.id !== undefined) return asJson({ id: now.id });
  if (now.text !== undefined) return asJson({ text: now.text });
  const photo = photos.get(now.photo);
  if (!photo) throw new Refused("The picture of this search is not kept when the page is loaded again: drop it once more.");
  if (photo.size > MAX_UPLOAD_BYTES) throw new Refused(`The picture has ${bytes(photo.size)}; choose one of up to 32 MiB.`);
  const type = photo.type.startsWith("image/") ? photo.type : "application/octet-stream";
  return { method: "POST", headers: { "Content-Type": type }, body: photo };
}

function showQuestion(now) {
  const photo = photos.get(now.photo);
  at("query").hidden = now.id === undefined && !photo;
  if (at("query").hidden) return;
  const image = at("query-picture");
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  image.src = photo ? URL.createObjectURL(photo) : thumbnailOf(now.id);
  at("query-text").textContent = photo ? `Like your picture ${photo.name || ""}`.trim() : `More like ${titleOf({ id: now.id })}`;
}

async function showDuplicates(now, signal) {
  at("groups").setAttribute("aria-busy", "true");
  const query = new URLSearchParams({ threshold: now.threshold ?? "0.95", ...(now.where ? { where: now.where } : {}) });
  const found = await ask(`api/duplicates?${query}`, { signal });
  at("groups").removeAttribute("aria-busy");
  showCurve(found);
  at("groups").replaceChildren(...found.groups.flatMap((group, number) => groupOf(group, number, now)));
  const compared = `${found.rows} rows compared${found.exact ? "" : " with those that the index finds"}`;
  const shown = found.groups.length < found.total ? `, of which the ${found.groups.length} largest are shown` : "";
  say(found.total ? `${found.total} ${found.total === 1 ? "group" : "groups"} of duplicates${shown}; ${compared}` : `No duplicates at ${found.threshold}; ${compared}`);
}

function groupOf(group, number, now) {
  const rest = group.rows - group.hits.length;
  const heading = made("h2", {}, `Group ${number + 1}: ${group.rows} rows${rest ? `, ${group.hits.length} of them here` : ""}`);
  return [heading, made("ol", { class: "grid" }, ...group.hits.map((row) => tile(row, now.where)))];
}

function showCurve(found) {
  const most = Math.max(1, ...found.curve.map((bar) => bar.pairs));
  at("curve").hidden = !found.curve.some((bar) => bar.pairs);
  const bars = [...found.curve].reverse().map((bar) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    svg.setAttribute("aria-hidden", "true");
    // Few pairs are what matters here, beside very many that are less alike
    rect.setAttribute("width", `${(100 * Math.log1p(bar.pairs)) / Math.log1p(most)}%`);
    rect.setAttribute("height", "10");
    svg.append(rect);
    const cells = [made("th", { scope: "row" }, `${bar.low.toFixed(2)}–${bar.high.toFixed(2)}`), made("td", {}, String(bar.pairs)), made("td", { class: "bar" })];
    cells[2].append(svg);
    return made("tr", bar.low < found.threshold - 1e-9 ? { class: "below" } : {}, ...cells);
  });
  at("bars").replaceChildren(...bars);
}

async function showMap(now, signal) {
  const by = info.groupings.includes(now.by) ? now.by : "";
  at("by").value = by;
  if (!map || (map.found.groups?.by ?? "") !== by) {
    const found = await ask(by ? `api/map?by=${encodeURIComponent(by)}` : "api/map", { signal });
    if (map) map.show(found);
    else map = new MapView(at("map"), found, { thumbnailOf, onLook: lookAt, onOpen: openPoint, onMove: keepPlace });
    showLegend(found.groups);
  }
  map.moveTo(now.at);
  map.choose(map.found.groups ? map.found.groups.names.indexOf(now.group) : -1);
  for (const button of at("legend").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.group === now.group));
  const { ids, rows, explained } = map.found;
  const which = ids.length < rows ? `${counted(ids.length)} of ${counted(rows)} rows` : `${counted(rows)} rows`;
  const share = Math.round(100 * (explained[0] + explained[1]));
  say(ids.length ? `${which}, by the two principal components, which hold ${share} % of the variance` : "The store has no vectors yet.");
}

function showLegend(groups) {
  at("legend").hidden = !groups;
  if (!groups) return at("legend").replaceChildren();
  const swatch = (place) => made("span", { class: `swatch group-${place}`, "aria-hidden": "true" });
  const entries = groups.names.map((name, place) => {
    const button = made("button", { type: "button", "data-group": name }, swatch(place + 1), made("span", { class: "name" }, name), made("span", { class: "count" }, counted(groups.sizes[place])));
    button.addEventListener("click", () => {
      const now = state();
      go({ ...now, group: now.group === name ? undefined : name });
    });
    return made("li", {}, button);
  });
  if (groups.others) entries.push(made("li", { class: "others" }, swatch(0), made("span", {}, "all others"), made("span", { class: "count" }, counted(groups.others))));
  return at("legend").replaceChildren(...entries);
}

at("by").addEventListener("change", () => go({ ...state(), by: at("by").value, group: undefined }));

function lookAt(number, isKeyboard) {
  if (number < 0) return;
  const row = { id: map.found.ids[number] };
  const group = map.found.groups ? (map.found.groups.names[map.found.groups.of[number]] ?? "a smaller group") : null;
  const link = made("a", { class: "picture", href: address({ view: "search", id: row.id }), "aria-label": `More like ${titleOf(row)}` }, picture(row));
  const caption = made("div", { class: "caption" }, made("span", { class: "line" }, made("span", { class: "name", title: row.id }, titleOf(row))));
  if (group !== null) caption.append(made("span", { class: "more" }, `${map.found.groups.by}: ${group}`));
  at("spot").replaceChildren(link, caption);
  if (isKeyboard) say(`Nearest to the cross: ${titleOf(row)}${group === null ? "" : `, ${map.found.groups.by} ${group}`}`);
}

const openPoint = (id) => go({ view: "search", id });

function keepPlace(place) {
  const now = state();
  if (now.view === "map") history.replaceState(null, "", address({ ...now, at: place }));
}

// --- What people do -------------------------------------------------------------------------------------------------

function searchFor(file) {
  const number = String(photos.size + 1);
  photos.set(number, file);
  go({ view: "search", photo: number, where: at("where").value.trim() });
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const now = state();
  const where = at("where").value.trim();
  if (now.view === "duplicates") return go({ view: "duplicates", threshold: at("threshold").value, where });
  const text = at("text").value.trim();
  if (text) return go({ view: "search", text, where });
  if (now.id !== undefined || now.photo !== undefined) return go({ view: "search", id: now.id, photo: now.photo, where });
  const first = at("text").disabled ? "Choose, drop or paste a picture first." : "Type a text, or choose a picture, and then search.";
  complain(new Refused(first, at("text").disabled ? null : "text"));
});

at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  if (file) searchFor(file);
  at("file").value = ""; // the same file may be chosen again
});

document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  searchFor(file);
});

const bringsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!bringsFile(event)) return;
  event.preventDefault();
  at("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  at("drop").hidden = true;
  if (!bringsFile(event)) return;
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) searchFor(file);
});

at("more").addEventListener("click", () => {
  const now = state();
  const seen = at("results").children.length;
  const to = address({ ...now, k: String(Math.min((Number(now.k) || HITS) + HITS, MAX_HITS)) });
  history.replaceState(null, "", to);
  show().then(() => at("results").children[seen]?.querySelector("a").focus());
});

// Arrows move between results, beside the Tab key
document.addEventListener("keydown", (event) => {
  const grid = event.target.closest?.(".grid");
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: "down", ArrowUp: "up" }[event.key];
  if (!grid || !step || !event.target.classList.contains("picture")) return;
  const links = [...grid.querySelectorAll(".picture")];
  const columns = links.filter((link) => link.offsetTop === links[0].offsetTop).length;
  const next = links[links.indexOf(event.target) + ({ down: columns, up: -columns }[step] ?? step)];
  if (!next) return;
  event.preventDefault();
  next.focus();
});

at("zoom-in").addEventListener("click", () => map?.zoom(1.6));
at("zoom-out").addEventListener("click", () => map?.zoom(1 / 1.6));
at("zoom-all").addEventListener("click", () => map?.moveTo());

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds what is shown
  at("main").focus();
});

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) return begin();
  scrollTo(0, 0);
  show({ moved: true });
});

// --- The beginning --------------------------------------------------------------------------------------------------

function logIn(reason) {
  if (reason) note("login-note", reason, true);
  if (!at("login").open) at("login").showModal();
}

at("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("api/login", asJson({ token: at("token").value }));
    at("token").value = "";
    at("login").close();
    await begin();
  } catch (error) {
    logIn(error.message);
  }
});

async function begin() {
  const token = /^#token=(.+)$/.exec(location.hash)?.[1];
  if (token) {
    history.replaceState(null, "", location.pathname); // it stays in no history
    try {
      await ask("api/login", asJson({ token: decodeURIComponent(token) }));
    } catch (error) {
      return logIn(error.message);
    }
  }
  try {
    info = await ask("api/info");
  } catch (error) {
    if (error.status === 401) return logIn();
    return complain(error);
  }
  at("fact-store").textContent = info.store;
  at("fact-rows").textContent = counted(info.rows);
  at("fact-model").textContent = info.model;
  at("fact-fingerprint").textContent = info.fingerprint;
  note("text-note", textHelp(), false);
  at("text").disabled = !info.towers.includes("text");
  if (at("text").disabled) at("text").placeholder = info.problem ? "" : "not with this model";
  at("file").disabled = !info.towers.includes("image");
  at("by").replaceChildren(made("option", { value: "" }, "nothing"), ...info.groupings.map((name) => made("option", { value: name }, name)));
  await show();
}

begin();
