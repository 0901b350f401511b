// The history page: rows are kept up to date, new ones come without a reload and without moving what is being read, panels
// close as a menu does, and keys lead from row to row.
import { keys } from "./keys.js";
import { announce, fetchPage, localiseTimes } from "./page.js";

const LIVE_MS = 1000; // while a row on the page is being written
const QUIET_MS = 3000;
const MOST_ROWS = 200; // a page left open all day does not grow without end
const results = document.querySelector('[data-part="results"]');
const isNewest = "newest" in results.dataset;
const idOf = (row) => Number(row.id.slice("completion-".length));
const list = () => results.querySelector('[data-part="rows"]');
const rows = () => [...results.querySelectorAll(".row")];
const liveRows = () => results.querySelectorAll('.row[data-status="in_progress"]');
let waiting = []; // new rows that the reader has not asked for yet, newest first
let isFull = false; // more came than this page can take: only a fresh one shows them without a gap
let isFetching = false;
let timer = 0;

function schedule() {
  const isLive = liveRows().length > 0;
  if (!document.hidden && (isNewest || isLive)) timer = setTimeout(refresh, isLive ? LIVE_MS : QUIET_MS);
}

// What came while the page was hidden is there as soon as it is seen.
function onVisibility() {
  clearTimeout(timer);
  if (!document.hidden && !isFetching && (isNewest || liveRows().length)) refresh();
}

// Back from the page of an answer, which may have been judged there: a browser shows the list as it was.
function onPageShow({ persisted }) {
  for (const field of document.querySelector('[data-part="filters"]')?.elements || []) field.disabled = false; // back from a search
  const cameBack = persisted || performance.getEntriesByType("navigation")[0]?.type === "back_forward";
  if (!cameBack || isFetching) return;
  clearTimeout(timer);
  refresh();
}

async function refresh() {
  isFetching = true;
  const fresh = await fetchPage();
  if (fresh?.querySelector('[data-part="results"]')) {
    localiseTimes(fresh);
    await renewRows(fresh);
    if (!fresh.querySelector(".hint")) results.querySelector(".hint")?.remove();
    if (isNewest && !isFull) takeNew(fresh.querySelector('[data-part="results"]'));
  }
  isFetching = false;
  schedule();
}

// As far down as the fresh page reaches, and below that what is being written.
async function renewRows(fresh) {
  const lowest = lowestOf(fresh);
  for (const row of rows()) {
    if (idOf(row) >= lowest) renew(row, fresh.getElementById(row.id) || undefined);
    else if (row.dataset.status === "in_progress") renew(row, await fetchRow(idOf(row)));
  }
}

function lowestOf(fresh) {
  return fresh.querySelector('[rel="next"]') ? Math.min(...[...fresh.querySelectorAll(".row")].map(idOf)) : 0;
}

// `fresh` is the row as it is now: undefined if it does not fit the filters any more, null if nobody knows.
function renew(row, fresh) {
  if (fresh === null || fresh?.outerHTML === row.outerHTML) return;
  if (!fresh) {
    row.dataset.status = "gone";
    row.querySelector(".badge").dataset.status = "gone";
    row.querySelector(".badge").textContent = "No longer in this list";
    return;
  }
  const hadFocus = row.contains(document.activeElement);
  const renewed = fresh.cloneNode(true);
  row.replaceWith(renewed);
  if (hadFocus) renewed.querySelector("a").focus({ preventScroll: true });
}

// A row that newer ones have pushed off the first page.
async function fetchRow(id) {
  const address = new URL(location);
  address.searchParams.set("before", id + 1);
  address.searchParams.set("limit", 1);
  const fresh = await fetchPage(address);
  if (fresh) localiseTimes(fresh);
  return fresh && (fresh.getElementById(`completion-${id}`) || undefined);
}

function takeNew(fresh) {
  const shown = rows();
  if (!shown.length) {
    if (fresh.querySelector(".row")) results.replaceChildren(...fresh.childNodes); // the page was empty: nothing is being read
    return;
  }
  dropGone(fresh);
  const newest = waiting.length ? idOf(waiting[0]) : idOf(shown[0]);
  const incoming = [...fresh.querySelectorAll(".row")];
  const added = incoming.filter((row) => idOf(row) > newest);
  if (!added.length) return;
  const missesSome = added.length === incoming.length && fresh.querySelector('[rel="next"]');
  if (missesSome || shown.length + waiting.length + added.length > MOST_ROWS) return offerReload();
  const wasWaiting = waiting.length > 0;
  waiting = [...added, ...waiting];
  if (isUndisturbed()) showWaiting();
  else offer(wasWaiting);
}

// What was deleted, or fits no more, before the reader asked for it.
function dropGone(fresh) {
  const lowest = lowestOf(fresh);
  const there = waiting.filter((row) => idOf(row) < lowest || fresh.querySelector(`#${row.id}`));
  if (there.length === waiting.length) return;
  waiting = there;
  if (waiting.length) offer(true);
  else results.querySelector(".news")?.remove();
}

// At the top, with neither the focus nor the pointer in the list, nobody is in the middle of something.
function isUndisturbed() {
  return scrollY < 8 && !results.contains(document.activeElement) && !list().matches(":hover") && !document.querySelector("dialog[open], details[open]");
}

function showWaiting() {
  list().prepend(...waiting.map((row) => document.getElementById(row.id) || row));
  waiting = [];
  results.querySelector(".news")?.remove();
}

function offer(wasWaiting) {
  const words = waiting.length === 1 ? "1 new answer" : `${waiting.length} new answers`;
  news(words, () => {
    const first = waiting[0];
    showWaiting();
    scrollTo({ top: 0 });
    first.querySelector("a").focus({ preventScroll: true });
  });
  if (!wasWaiting) announce(words);
}

function offerReload() {
  isFull = true;
  news("Many new answers: show the newest", () => location.reload());
}

function news(words, onClick) {
  let button = results.querySelector(".news button");
  if (!button) {
    const line = document.createElement("div");
    line.className = "news";
    button = line.appendChild(document.createElement("button"));
    button.className = "button primary";
    list().before(line);
  }
  button.textContent = words;
  button.onclick = onClick;
}

function move(step) {
  const links = [...results.querySelectorAll('.row-title a, [rel="next"]')];
  const at = links.findIndex((link) => link === document.activeElement);
  const next = links[at < 0 ? firstInView(links) : Math.min(Math.max(at + step, 0), links.length - 1)];
  next?.focus({ preventScroll: true });
  (next?.closest(".row") || next)?.scrollIntoView({ block: "nearest" });
}

function firstInView(links) {
  const bar = document.querySelector(".bar").offsetHeight;
  return Math.max(links.findIndex((link) => link.getBoundingClientRect().top >= bar), 0);
}

function openSearch() {
  const search = document.getElementById("search");
  search?.focus();
  search?.select();
}

// The panels close as menus do: with Escape, or a click elsewhere.
function closePanels(except) {
  for (const panel of document.querySelectorAll(".panel[open]")) if (panel !== except) panel.open = false;
}

// Fields that say nothing stay out of the address.
function onSubmit({ target }) {
  for (const field of target.matches('[data-part="filters"]') ? target.elements : []) field.disabled = field.name && !field.value;
}

document.addEventListener("click", ({ target }) => closePanels(target.closest(".panel")));
document.addEventListener("keydown", (event) => {
  const panel = event.key === "Escape" && event.target.closest?.(".panel[open]");
  if (!panel) return;
  panel.open = false;
  panel.querySelector("summary").focus();
});
document.addEventListener("submit", onSubmit);
addEventListener("pageshow", onPageShow);
document.addEventListener("visibilitychange", onVisibility);
keys({
  j: ["Next answer", () => move(1), { repeats: true }],
  k: ["Answer before", () => move(-1), { repeats: true }],
  Enter: ["Open it"],
  "/": ["Search", openSearch],
});
schedule();
