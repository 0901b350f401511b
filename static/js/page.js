// What every page shares: copying, announcing, local times, and fetching a page again for a part of it.
document.documentElement.classList.add("js");

// Says it once to a screen reader.
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

// `textOf(kind, button)` gives what a `data-copy` button copies; a code block's own text needs no help.
export function enableCopy(textOf) {
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest("[data-copy]");
    if (!button) return;
    const kind = button.dataset.copy;
    const text = kind === "code" ? button.closest(".code").querySelector("code").textContent : textOf(kind, button);
    const done = await copy(text);
    const label = button.querySelector("span") || button;
    label.textContent = done ? "Copied" : "Cannot copy";
    announce(done ? "Copied" : "The browser does not let this page copy");
    setTimeout(() => (label.textContent = "Copy"), 1600);
  });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // over plain HTTP from another machine there is no clipboard
  }
}

function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus({ preventScroll: true });
  return done;
}

// Times arrive in UTC and are shown in the reader's own.
export function localiseTimes(root) {
  const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
  const today = new Date().toDateString();
  for (const element of root.querySelectorAll("time:not([title])")) {
    const at = new Date(element.dateTime);
    element.title = element.textContent;
    element.textContent = at.toDateString() === today ? `Today, ${clock.format(at)}` : day.format(at);
  }
}

// An Idempotency-Key. crypto.randomUUID() is not there over plain HTTP.
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A key is for one look at a page: who comes back to a form and sends it again means it, and would else get the answer of before.
function renewKeys() {
  for (const field of document.querySelectorAll('[name="idempotency_key"]')) field.value = newKey();
}

// A page of ours as a document, and the address that it came from in the end; a `body` is posted. Throws words for the reader.
export async function visit(address, body = null) {
  let response, html;
  try {
    response = await fetch(address, { method: body ? "POST" : "GET", body, headers: { Accept: "text/html" }, cache: "no-store" });
    html = await response.text();
  } catch {
    throw new Error("The service cannot be reached. What you wrote still stands here; try it again in a moment.");
  }
  if (response.status === 401 || new URL(response.url).pathname === "/login") {
    throw new Error("Your login has ended. What you wrote still stands here: log in in another tab, then try it again.");
  }
  const page = new DOMParser().parseFromString(html, "text/html");
  if (!response.ok) throw new Error(refusal(page) || `The service answered with ${response.status}.`);
  return { page, address: response.url };
}

// What templates/error.html says, without the links: nobody has left the page that they were on.
function refusal(page) {
  return Array.from(page.querySelectorAll("main p:not(.muted, .choices)"), (line) => line.textContent.trim()).join(" ");
}

// A page, this one if no address is given, as the server would give it now, or null if it does not.
export async function fetchPage(address = location.href) {
  return visit(address).then(({ page }) => page, () => null);
}

// Takes the parts marked with `data-refresh` from the same page as it is now: those `named`, or else those that have changed.
export function refreshParts(fresh, named = null) {
  localiseTimes(fresh);
  for (const old of document.querySelectorAll("[data-refresh]")) {
    const renewed = fresh.querySelector(`[data-refresh="${old.dataset.refresh}"]`);
    if (renewed && (named ? named.includes(old.dataset.refresh) : renewed.outerHTML !== old.outerHTML)) old.replaceWith(renewed);
  }
}

addEventListener("pageshow", renewKeys);
localiseTimes(document);
