// The form that judges an answer, on its own page and in the queue. What is typed in it and not saved yet is a draft: it is there again
// wherever this tab shows the form again. templates/login.html forgets all drafts, since the next one may be somebody else.
import { visit } from "./page.js";

const FIELDS = ["reason", "note", "correction"];

// `answer` gives what the model wrote. A correction begins as the newest one or as that, and left as it is it is none.
export function enableJudging(root, answer) {
  const form = root.querySelector('[data-part="judge-form"]');
  if (!form) return;
  const { correction, reason } = form.elements;
  const start = () => correction.dataset.newest ?? answer();
  const begin = () => {
    if (!correction.value && new Blob([start()]).size <= 65536) correction.value = start();
  };
  const takeBack = () => {
    correction.value = answer();
    keepDraft(form, start());
    correction.focus();
  };
  restoreDraft(form);
  form.addEventListener("input", () => keepDraft(form, start()));
  form.querySelector('[data-part="take-back"]')?.addEventListener("click", takeBack);
  correction.closest("details").addEventListener("toggle", begin);
  correction.addEventListener("focus", begin); // a key's first letters come before the toggle is told
  form.addEventListener("formdata", ({ formData }) => {
    if (isUnchanged(correction, start())) formData.set("correction", "");
  });
  reason.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) reason.blur(); // now single keys judge
  });
}

function restoreDraft(form) {
  for (const [name, text] of Object.entries(JSON.parse(draftOf(form)) || {})) {
    const field = form.elements[name];
    field.value = text;
    if (field.closest("details")) field.closest("details").open = true;
  }
}

function keepDraft(form, start) {
  const typed = FIELDS.map((name) => [name, form.elements[name].value]).filter(([, text]) => text);
  const draft = Object.fromEntries(typed.filter(([name]) => name !== "correction" || !isUnchanged(form.elements.correction, start)));
  draftOf(form, Object.keys(draft).length ? JSON.stringify(draft) : "");
}

// Reads it, or writes it: with "" it is gone.
function draftOf(form, draft = null) {
  try {
    if (draft) sessionStorage.setItem(form.action, draft);
    else if (draft === "") sessionStorage.removeItem(form.action);
    return sessionStorage.getItem(form.action);
  } catch {
    return null; // a browser may refuse to keep anything, or so much
  }
}

// A text area keeps only LF.
function isUnchanged(field, start) {
  return field.value === start.replace(/\r\n?/g, "\n");
}

// Opens a field of the form, all of it in view.
export function openField(root, name) {
  const field = root.querySelector(`#${name}`);
  if (!field) return;
  const fold = field.closest("details");
  if (fold) fold.open = true;
  field.focus();
  requestAnimationFrame(() => fold?.scrollIntoView({ block: "nearest" }));
}

// Sends a form as the browser would: resolves to the page that it leads to, or throws, as `visit` does.
export async function send(form, submitter) {
  const isJudgement = form.dataset.part === "judge-form";
  if (isJudgement) await addTypedTag(form);
  const came = await visit(form.action, new URLSearchParams(new FormData(form, submitter)));
  if (isJudgement) draftOf(form, "");
  return came;
}

// A tag that is typed and not added yet is meant for the answer that is judged, and its field is about to go.
async function addTypedTag(form) {
  const tag = form.closest('[data-part="judge"]').querySelector("#tag");
  if (tag.value.trim()) await visit(tag.form.action, new URLSearchParams(new FormData(tag.form)));
}

// Says in the page what went wrong.
export function complain(place, words) {
  document.querySelector('[data-part="complaint"]')?.remove();
  const note = Object.assign(document.createElement("p"), { className: "note", textContent: words });
  note.dataset.kind = "failed";
  note.dataset.part = "complaint";
  note.setAttribute("role", "alert");
  place.prepend(note);
  note.scrollIntoView({ block: "center" });
}
