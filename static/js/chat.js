// The chat page: what is sent, what comes back, and what the reader can do about it.
import { Answer, ConnectionLost } from "./answer.js";
import { Follow } from "./follow.js";
import { announce, enableCopy } from "./page.js";
import { enableThumbs } from "./thumbs.js";
import { Turn } from "./turn.js";

const part = (name) => document.querySelector(`[data-part="${name}"]`);
const main = document.getElementById("main");
const composer = part("composer");
const box = composer.elements.prompt;
const sendButton = part("send");
const stopButton = part("stop");
const follow = new Follow(part("jump"));
const hint = part("hint");
const usualHint = hint.textContent;
const UNSENT = "unsent prompt"; // what stood in the box when the page was loaded again
let running = null; // {turn, answer}: what is being written

function start() {
  const turns = [...document.querySelectorAll(".turn")].map((element) => new Turn(element));
  composer.addEventListener("submit", onSubmit);
  box.addEventListener("keydown", onKey);
  box.addEventListener("input", fitBox);
  stopButton.addEventListener("click", stop);
  document.addEventListener("submit", onRegenerate);
  document.addEventListener("click", onExample);
  enableThumbs();
  enableCopy((_, button) => button.closest(".turn").turn.text);
  box.value ||= sessionStorage.getItem(UNSENT) ?? "";
  sessionStorage.removeItem(UNSENT);
  fitBox();
  if (!location.hash) for (const turn of turns) turn.onShown = () => follow.toEnd();
  const live = turns.find(({ element }) => element.dataset.status === "in_progress");
  if (live) {
    live.progress("Being written");
    run(live, new Answer({ id: live.completionId }));
  }
  if (turns.length && !location.hash) follow.take();
  if (matchMedia("(pointer: fine)").matches) box.focus({ preventScroll: true });
}

function onSubmit(event) {
  event.preventDefault();
  const prompt = box.value;
  if (running) return refuse();
  if (!prompt.trim()) return;
  box.value = "";
  fitBox();
  const turn = Turn.blank(prompt);
  part("turns").append(turn.element);
  part("turns").querySelector(":scope > .note")?.remove(); // what the page without a script had said
  const body = { prompt };
  if (main.dataset.conversationId) body.conversation_id = Number(main.dataset.conversationId);
  if (composer.elements.model) body.model = composer.elements.model.value;
  turn.begin();
  run(turn, new Answer({ body }));
}

function refuse() {
  announce("An answer is still being written. Wait for its end, or stop it.");
  hint.textContent = "Not sent: wait for the answer's end, or stop it with Esc";
}

// Enter sends; Shift+Enter breaks the line; the Enter that ends an input method's composition does neither.
function onKey(event) {
  if (event.key === "Escape" && running && !event.isComposing) return stop();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  if (box.value.trim()) composer.requestSubmit();
}

// For browsers that do not know `field-sizing`. Through the style object, which the content security policy allows.
function fitBox() {
  if (CSS.supports("field-sizing", "content")) return;
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
}

function onRegenerate(event) {
  const form = event.target.closest("[data-regenerate]");
  if (!form) return;
  event.preventDefault();
  if (running) return;
  const turn = form.closest(".turn").turn;
  turn.begin(true);
  run(turn, new Answer({ body: { regenerate: turn.completionId } }));
  stopButton.focus({ preventScroll: true });
}

function onExample({ target }) {
  const example = target.closest("[data-example]");
  if (!example) return;
  box.value = example.textContent;
  fitBox();
  box.focus();
}

// Reads an answer to its end and shows it in its turn.
async function run(turn, answer) {
  setRunning({ turn, answer });
  const isNewest = turn.element === part("turns").lastElementChild;
  turn.onShown = () => isNewest && follow.toEnd();
  if (isNewest) follow.take();
  announce("The answer is being written.");
  try {
    for await (const { type, data } of answer.read()) {
      if (type === "created") onCreated(turn, data);
      else if (type === "delta") onDelta(turn, answer);
      else if (type === "waiting") turn.progress("The connection was lost; taking it up again");
      else onEnd(turn, data);
    }
  } catch (error) {
    onBreak(turn, answer, error);
  }
  setRunning(null);
  if (isNewest) follow.toEnd();
}

function setRunning(what) {
  const stopHadFocus = document.activeElement === stopButton;
  running = what;
  stopButton.hidden = !what;
  stopButton.removeAttribute("aria-disabled");
  hint.textContent = what ? "Esc stops the answer" : usualHint;
  sendButton.hidden = Boolean(what);
  if (!what && stopHadFocus) sendButton.focus({ preventScroll: true });
}

function onCreated(turn, { completion_id, conversation_id }) {
  turn.created(completion_id);
  if (main.dataset.conversationId) return;
  main.dataset.conversationId = composer.elements.conversation_id.value = conversation_id;
  history.replaceState(null, "", `/?conversation=${conversation_id}`);
  nameConversation(conversation_id, turn.prompt);
}

// A conversation begins to exist: it gets its place in the list at the side and in the title.
function nameConversation(id, prompt) {
  const title = prompt.trim().replace(/\s+/g, " ").slice(0, 80);
  const link = Object.assign(document.createElement("a"), { href: `/?conversation=${id}`, textContent: title, dir: "auto" });
  link.setAttribute("aria-current", "page");
  const item = document.createElement("li");
  item.append(link);
  part("conversations").prepend(item);
  part("no-conversations")?.remove();
  part("welcome")?.remove();
  part("title").textContent = title;
  part("title").hidden = false;
  document.title = `${title} · llmstream`;
}

function onDelta(turn, answer) {
  turn.progress("Being written");
  turn.show(answer.text);
}

function onEnd(turn, ending) {
  turn.end(ending);
  const words = { completed: "The answer is complete.", cancelled: "The answer was stopped." }[ending.status];
  announce(words ? (ending.finish_reason === "length" ? ending.reason : words) : ""); // the others are alerts of their own
}

// Neither an ending nor a connection: say what happened, keep the text, offer what can be done.
function onBreak(turn, answer, error) {
  announce("");
  const retry = () => {
    turn.begin();
    run(turn, answer);
  };
  const edit = () => {
    box.value = turn.prompt;
    turn.element.remove();
    fitBox();
    box.focus();
  };
  const kept = turn.text ? " What came so far is kept." : "";
  if (error instanceof ConnectionLost) {
    const detail = answer.id === null ? "Your prompt is not lost." : `The answer may still be being written, and nothing of it is lost.${kept}`;
    return turn.break("The service cannot be reached.", detail, [], [["Try again", retry]]);
  }
  if (!error.status) throw error;
  if (error.status === 409) return onBusy(turn);
  if (error.status === 401) return onLoggedOut(turn, kept, edit);
  const sentences = Object.entries(error.errors).flatMap(([field, list]) => [list].flat().map((sentence) => `${field}: ${sentence}`));
  const wait = error.retryAfter ? ` Wait ${error.retryAfter} s before you try again.` : "";
  const choices = [];
  if (error.status >= 500 || [403, 429].includes(error.status)) choices.push(["Try again", retry]);
  if (!turn.completionId) choices.push(["Edit the prompt", edit]);
  turn.break(`${error.title}.`, `${error.message}${wait}${kept}`, sentences, choices);
}

// The login has ended. The prompt stays on the page: the next one to log in at this browser may be somebody else.
function onLoggedOut(turn, kept, edit) {
  const logIn = () => location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  const detail = `Copy what you still need, log in, and send it again.${kept}`;
  const choices = [["Log in", logIn]];
  if (!turn.completionId) choices.push(["Edit the prompt", edit]);
  turn.break("You are no longer logged in.", detail, [], choices);
}

// Another answer is being written in this conversation, asked for in another window: the page shows it once it is loaded again.
function onBusy(turn) {
  const isNew = !turn.completionId;
  if (isNew) box.value ||= turn.prompt;
  fitBox();
  const load = () => {
    sessionStorage.setItem(UNSENT, box.value);
    location.assign(`/?conversation=${main.dataset.conversationId}`);
  };
  const detail = `It was asked for in another window. Wait for it, or show it here and stop it.${isNew ? " Your prompt stands in the box below." : ""}`;
  turn.break("Another answer is being written in this conversation.", detail, [], [["Show that answer", load]]);
  if (!isNew) return;
  part("turns").append(turn.part("note").firstElementChild);
  turn.element.remove();
}

// A button that is disabled would lose the focus.
async function stop() {
  if (stopButton.hasAttribute("aria-disabled")) return;
  const { turn, answer } = running;
  stopButton.setAttribute("aria-disabled", "true");
  turn.progress("Stopping");
  try {
    await answer.stop();
  } catch {
    stopButton.removeAttribute("aria-disabled");
    turn.progress("The service could not be asked to stop; you can try it again");
  }
}

start();
