// The page of one completion: its answer rendered or raw, live while it is being written, and replayed afterwards.
import { Answer } from "./answer.js";
import { complain, enableJudging, openField, send } from "./judge.js";
import { keys } from "./keys.js";
import { MarkdownView } from "./markdown.js";
import { announce, enableCopy, fetchPage, refreshParts } from "./page.js";
import { renderWhenSeen } from "./prose.js";
import { enableReplay } from "./replay.js";
import { markHidden } from "./visible.js";

const part = (name) => document.querySelector(`[data-part="${name}"]`);
const completion = part("completion");
const box = part("answer");
const view = new MarkdownView(box);
let text = box.textContent;
let isRaw = box.classList.contains("raw");
let timer = 0;
let isSending = false;

async function show(isWhole) {
  timer = 0;
  box.classList.toggle("raw", isRaw);
  if (isRaw) {
    box.classList.remove("rendered");
    box.textContent = text;
  } else if (isWhole) {
    await view.finish(text);
  } else {
    view.update(text);
  }
  if (isWhole) markHidden(box);
}

function onView(event) {
  const link = event.target.closest("[data-view]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  isRaw = link.dataset.view === "raw";
  for (const other of document.querySelectorAll("[data-view]")) other.toggleAttribute("aria-current", other === link);
  link.setAttribute("aria-current", "true");
  history.replaceState(null, "", link.href.split("#")[0]);
  view.clear();
  show(true);
}

async function followLive() {
  const progress = part("progress-text");
  const answer = new Answer({ id: Number(completion.dataset.completionId) });
  try {
    for await (const { type } of answer.read()) {
      progress.textContent = type === "waiting" ? "The connection was lost; taking it up again" : "Being written";
      if (type !== "delta") continue;
      text = answer.text;
      document.querySelector('[data-refresh="empty"]').textContent = "";
      timer ||= setTimeout(show, 60, false);
    }
  } catch {
    progress.textContent = "The service cannot be reached. Reload the page to see how this answer ended.";
    return;
  }
  clearTimeout(timer);
  text = answer.text;
  show(true);
  box.removeAttribute("aria-busy");
  part("progress").hidden = true;
  announce("The answer has ended.");
  await renewFacts();
}

// What is known only now is taken from the page as the server gives it now.
async function renewFacts() {
  const fresh = await fetchPage();
  if (!fresh) return;
  refreshParts(fresh);
  renderOthers();
  enableReplay(text);
  enableJudging(document, () => text);
  completion.dataset.status = fresh.querySelector('[data-part="completion"]').dataset.status;
}

function renderOthers() {
  renderWhenSeen(document.querySelectorAll(".talk .prose"));
}

// A judgement, a tag or a name is sent from where the reader is; what is said about the answer is then renewed.
async function onJudge(event) {
  const form = event.target;
  if (!form.closest('[data-refresh="judge"]')) return;
  event.preventDefault();
  if (isSending) return;
  isSending = true;
  try {
    const { page } = await send(form, event.submitter);
    refreshParts(page, ["head", "judge", "facts"]);
    enableJudging(document, () => text);
    document.getElementById(form.action.endsWith("/tags") ? "tag" : "judge-title").focus({ preventScroll: true });
    announce(event.submitter?.name === "rating" ? `Judged ${event.submitter.value}.` : "Saved.");
  } catch (error) {
    complain(part("judge"), error.message);
  } finally {
    isSending = false;
  }
}

const press = (selector) => () => document.querySelector(selector)?.click();
const open = (name) => () => openField(document, name);

enableCopy((kind) => (kind === "prompt" ? part("prompt").textContent : text));
document.addEventListener("click", onView);
document.addEventListener("submit", onJudge);
keys({
  j: ["Older completion", press('[data-go="older"]')],
  k: ["Newer completion", press('[data-go="newer"]')],
  v: ["Answer as shown, or raw", press("[data-view]:not([aria-current])")],
  p: ["Replay, pause", press('[data-replay="toggle"]')],
  g: ["Good", press('[name="rating"][value="good"]')],
  b: ["Bad", press('[name="rating"][value="bad"]')],
  r: ["Reason", open("reason")],
  n: ["Note", open("note")],
  c: ["Corrected answer", open("correction")],
  t: ["Tag", open("tag")],
  s: ["Save without a rating", press('[data-part="save"]')],
  Escape: ["Leave a field, so that the keys work"],
});
if (text) show(true);
renderOthers();
enableJudging(document, () => text);
if (completion.dataset.status !== "in_progress") enableReplay(text);
if (completion.dataset.status === "in_progress") followLive();
