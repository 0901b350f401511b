// The queue: judges with single keys, and shows the next answer without loading the page anew. Without this script its forms do the same.
import { enableJudging, isUnchanged } from "./judge.js";
import { keys } from "./keys.js";
import { MarkdownView } from "./markdown.js";
import { announce, enableCopy, localiseTimes } from "./page.js";
import { learnNames, markHidden } from "./visible.js";

const RENEW_MS = 45_000; // an answer is ours for two minutes at a time
const FIELDS = ["reason", "note", "correction"];
const main = document.getElementById("main");
const part = (name) => main.querySelector(`[data-part="${name}"]`);
const drafts = new Map(); // what was typed and not saved, by the id of its completion
let answer = ""; // as the model wrote it
let isBusy = false;

// Each time another answer stands on the page.
function show() {
  localiseTimes(main);
  const box = part("answer");
  answer = box?.textContent ?? "";
  learnNames(main);
  if (answer) new MarkdownView(box).finish(answer).then(() => markHidden(box));
  enableJudging(main, () => answer);
  restoreDraft();
}

function keepDraft() {
  const form = part("judge-form");
  const typed = form ? FIELDS.map((name) => form.elements[name].value) : [];
  if (form && isUnchanged(form.elements.correction, answer)) typed[2] = "";
  if (typed.some(Boolean)) drafts.set(part("review").dataset.completionId, typed);
}

function restoreDraft() {
  const typed = drafts.get(part("review").dataset.completionId) || [];
  typed.forEach((text, index) => {
    if (!text) return;
    const field = part("judge-form").elements[FIELDS[index]];
    field.value = text;
    if (field.closest("details")) field.closest("details").open = true;
  });
}

async function onSubmit(event) {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  const said = new URLSearchParams(new FormData(form, event.submitter));
  if (form.action.endsWith("/tags")) {
    keepDraft();
    await turnTo(form.action, said, () => part("judge").querySelector("#tag"));
  } else {
    const { completionId } = part("review").dataset;
    if (form !== part("judge-form")) keepDraft();
    if ((await turnTo(form.action, said)) && form.action.endsWith("/reviews")) drafts.delete(completionId);
  }
}

function onClick(event) {
  const link = event.target.closest("a");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || new URL(link.href).pathname !== "/review") return;
  event.preventDefault();
  go(link);
}

function go(link) {
  if (!link) return;
  keepDraft();
  turnTo(link.href);
}

// Asks the service, then shows the page that it leads to. Says what went wrong, and leaves everything as it was; resolves to whether
// that worked. `focused` gives what has the focus afterwards.
async function turnTo(address, body = null, focused = () => part("shown"), isBack = false) {
  if (isBusy) return false;
  isBusy = true;
  main.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(address, { method: body ? "POST" : "GET", body, headers: { Accept: "text/html" }, cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!response.ok) return complain(fresh.querySelector("main")?.innerText || `The service answered ${response.status}.`);
    if (!isBack) history.pushState(null, "", response.url);
    swap(fresh, focused);
    return true;
  } catch {
    return complain("The service cannot be reached. Nothing was saved; what you wrote still stands here. Try it again in a moment.");
  } finally {
    isBusy = false;
    main.removeAttribute("aria-busy");
  }
}

function swap(fresh, focused) {
  const isSame = fresh.querySelector('[data-part="review"]').dataset.completionId === part("review").dataset.completionId;
  document.title = fresh.title;
  main.replaceChildren(...fresh.getElementById("main").childNodes);
  show();
  if (!isSame) scrollTo(0, 0);
  (focused() || part("shown")).focus({ preventScroll: true });
  announce(isSame ? "Saved." : part("review").dataset.announcement.trim());
}

function complain(words) {
  part("complaint")?.remove();
  const note = Object.assign(document.createElement("p"), { className: "note", textContent: words.trim() });
  note.dataset.kind = "failed";
  note.dataset.part = "complaint";
  note.setAttribute("role", "alert");
  (part("judge") || part("review")).prepend(note);
  note.scrollIntoView({ block: "center" });
  return false;
}

// While the page is open the answer stays ours.
async function renew() {
  const { completionId } = part("review").dataset;
  if (!completionId) return;
  const response = await fetch(`/review/${completionId}/lock`, { method: "PUT" }).catch(() => null);
  if (response?.status === 409) announce("Another reviewer has opened this answer, too. Both judgements will be kept.");
}

const press = (selector) => () => !isBusy && main.querySelector(selector)?.click();
function openField(name) {
  const field = main.querySelector(`#${name}`);
  if (!field) return;
  if (field.closest("details")) field.closest("details").open = true;
  field.focus();
}

addEventListener("popstate", () => turnTo(location.href, null, undefined, true));
main.addEventListener("submit", onSubmit);
main.addEventListener("click", onClick);
enableCopy(() => answer);
keys({
  j: ["Next answer; this one is skipped", press('[data-part="next"]')],
  k: ["Previous answer", press('[data-part="previous"]')],
  g: ["Good: save, show the next", press('[name="rating"][value="good"]')],
  b: ["Bad: save, show the next", press('[name="rating"][value="bad"]')],
  r: ["Reason", () => openField("reason")],
  n: ["Note", () => openField("note")],
  c: ["Corrected answer", () => openField("correction")],
  t: ["Tag", () => openField("tag")],
  s: ["Save without a rating", press('[data-part="save"]')],
  u: ["Judge the last one again", press('[data-part="undo"]')],
  Escape: ["Leave a field, so that the keys work"],
});
setInterval(renew, RENEW_MS);
show();
