// The page of one completion: its answer rendered or raw, and live while it is being written.
import { Answer } from "./answer.js";
import { MarkdownView } from "./markdown.js";
import { announce, enableCopy, fetchPage, localiseTimes } from "./page.js";

const part = (name) => document.querySelector(`[data-part="${name}"]`);
const completion = part("completion");
const box = part("answer");
const view = new MarkdownView(box);
let text = box.textContent;
let isRaw = false;
let timer = 0;

function show(isWhole) {
  timer = 0;
  box.classList.toggle("raw", isRaw);
  if (isRaw) {
    box.classList.remove("rendered");
    box.textContent = text;
  } else if (isWhole) {
    view.finish(text);
  } else {
    view.update(text);
  }
}

function onView({ target }) {
  const button = target.closest("[data-view]");
  if (!button) return;
  isRaw = button.dataset.view === "raw";
  for (const other of document.querySelectorAll("[data-view]")) other.setAttribute("aria-pressed", other === button);
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
  localiseTimes(fresh);
  for (const old of document.querySelectorAll("[data-refresh]")) {
    const renewed = fresh.querySelector(`[data-refresh="${old.dataset.refresh}"]`);
    if (renewed) old.replaceWith(renewed);
  }
  completion.dataset.status = fresh.querySelector('[data-part="completion"]').dataset.status;
}

enableCopy((kind) => (kind === "prompt" ? part("prompt").textContent : text));
document.addEventListener("click", onView);
if (text) show(true);
if (completion.dataset.status === "in_progress") followLive();
