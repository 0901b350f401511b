// The queue: judges with single keys, and shows the next answer without loading the page anew. Without this script its forms do the same.
import { complain, enableJudging, openField, send } from "./judge.js";
import { keys } from "./keys.js";
import { MarkdownView } from "./markdown.js";
import { announce, enableCopy, localiseTimes, visit } from "./page.js";
import { renderWhenSeen } from "./prose.js";
import { learnNames, markHidden } from "./visible.js";

const RENEW_MS = 45_000; // an answer is ours for two minutes at a time
const main = document.getElementById("main");
const part = (name) => main.querySelector(`[data-part="${name}"]`);
let answer = ""; // as the model wrote it
let isBusy = false;
let asked = 0; // pages so far: only the one that was asked for last is shown
let shownAt = location.href;

// Each time another answer stands on the page.
function show() {
  localiseTimes(main);
  const box = part("answer");
  answer = box?.textContent ?? "";
  learnNames(main);
  if (answer) new MarkdownView(box).finish(answer).then(() => markHidden(box));
  renderWhenSeen(main.querySelectorAll(".earlier .prose"));
  enableJudging(main, () => answer);
}

function onSubmit(event) {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  const focused = form.action.endsWith("/tags") ? "#tag" : "#shown";
  if (!isBusy) turnTo(() => send(form, event.submitter), { focused, isSaved: true });
}

function onClick(event) {
  const link = event.target.closest("a");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || new URL(link.href).pathname !== "/review") return;
  event.preventDefault();
  if (!isBusy) turnTo(() => visit(link.href));
}

// Back and forward do not wait: the browser shows their address already. The skip link only leads to another place of the page.
function onPopState() {
  const isHere = location.href.split("#")[0] === shownAt.split("#")[0];
  if (isBusy || !isHere) turnTo(() => visit(location.href), { isBack: true });
}

// Shows the page that `come` resolves to. If it does not come, says why, and leaves everything as it was.
async function turnTo(come, { focused = "#shown", isSaved = false, isBack = false } = {}) {
  const mine = ++asked;
  isBusy = true;
  main.setAttribute("aria-busy", "true");
  try {
    const { page, address } = await come();
    if (mine === asked) swap(page, isBack ? location.href : address, focused, isSaved);
  } catch (error) {
    if (isBack && mine === asked) history.pushState(null, "", shownAt);
    complain(part("judge") || part("review"), error.message);
  } finally {
    if (mine === asked) {
      isBusy = false;
      main.removeAttribute("aria-busy");
    }
  }
}

function swap(fresh, address, focused, isSaved) {
  const isSame = fresh.querySelector('[data-part="review"]').dataset.completionId === part("review").dataset.completionId;
  if (address !== location.href) history.pushState(null, "", address);
  shownAt = address;
  document.title = fresh.title;
  main.replaceChildren(...fresh.getElementById("main").childNodes);
  show();
  if (!isSame) scrollTo(0, 0);
  (main.querySelector(focused) || part("shown")).focus({ preventScroll: true });
  announce(isSaved && isSame ? "Saved." : part("review").dataset.announcement.trim());
}

// While the page is open the answer stays ours.
async function renew() {
  const { completionId } = part("review").dataset;
  if (!completionId) return;
  const response = await fetch(`/review/${completionId}/lock`, { method: "PUT" }).catch(() => null);
  const note = part("taken");
  if (response?.status !== 409 || !note?.hidden || part("review").dataset.completionId !== completionId) return;
  note.hidden = false;
  announce(note.textContent);
}

const open = (name) => () => openField(main, name);
const press = (selector, otherwise = "") => () => {
  const button = main.querySelector(selector);
  if (!button) announce(otherwise);
  else if (!isBusy) button.click();
};

addEventListener("popstate", onPopState);
main.addEventListener("submit", onSubmit);
main.addEventListener("click", onClick);
enableCopy(() => answer);
keys({
  j: ["Next answer; this one is skipped", press('[data-part="next"]')],
  k: ["Previous answer", press('[data-part="previous"]')],
  g: ["Good: save, show the next", press('[name="rating"][value="good"]')],
  b: ["Bad: save, show the next", press('[name="rating"][value="bad"]')],
  r: ["Reason", open("reason")],
  n: ["Note", open("note")],
  c: ["Corrected answer", open("correction")],
  t: ["Tag", open("tag")],
  s: ["Save without a rating", press('[data-part="save"]')],
  u: ["Judge the last one again", press('[data-part="undo"]', "Nothing was judged here yet.")],
  Escape: ["Leave a field, so that the keys work"],
});
setInterval(renew, RENEW_MS);
show();
