// Single keys for what a page can do, the list of them, and a switch to turn them off.
//
// keys({ j: ["Next answer", (event) => ..., { repeats: true }], Enter: ["Open it"], ... })
//   - the order of the object is the order of the list; without a handler a key is only listed
//   - silent while something is typed or a dialog is open, and with Ctrl, Alt or Meta
//   - a key that is held down counts once, unless it `repeats`
// `?`, or a button with `data-keys`, shows the list. Escape leaves a field, so that the keys work again.
const STORED = "llmstream.keys";
const TYPED_IN = 'textarea, select, [contenteditable]:not([contenteditable="false"]), input:not([type="checkbox"], [type="radio"], [type="button"], [type="submit"])';
const NAMES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", " ": "Space", Escape: "Esc" };
let areOn = recall();

export function keys(bindings) {
  const all = { ...bindings, "?": ["Show this list", openList] };
  const list = makeList(all);
  function openList() {
    list.showModal();
  }
  document.addEventListener("keydown", (event) => onKey(event, all));
  document.addEventListener("click", ({ target }) => target.closest("[data-keys]") && openList());
}

function onKey(event, bindings) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || document.querySelector("dialog[open]")) return;
  if (event.target.closest?.(TYPED_IN)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const [, handler, { repeats = false } = {}] = bindings[event.key] || bindings[event.key.toLowerCase()] || [];
  if (!handler || (event.repeat && !repeats) || !areOn) return;
  event.preventDefault();
  handler(event);
}

function makeList(bindings) {
  const list = element("dialog", { className: "dialog" });
  list.setAttribute("aria-labelledby", "keys-title");
  list.setAttribute("closedby", "any");
  const rows = element("dl", { className: "keys" });
  for (const [key, [label]] of Object.entries(bindings)) {
    const row = element("div");
    const name = element("dt");
    name.append(element("kbd", { textContent: NAMES[key] || key }));
    row.append(name, element("dd", { textContent: label }));
    rows.append(row);
  }
  const close = element("form", { method: "dialog" });
  close.append(element("button", { className: "button", textContent: "Close", autofocus: true })); // else the focus is on the switch
  list.append(element("h2", { id: "keys-title", textContent: "Keys" }), rows, makeSwitch(), close);
  document.body.append(list);
  return list;
}

function makeSwitch() {
  const input = element("input", { type: "checkbox", checked: areOn });
  input.addEventListener("change", () => turn(input.checked));
  const label = element("label", { className: "check" });
  label.append(input, " Single keys work (on all pages of this browser)");
  return label;
}

function recall() {
  try {
    return localStorage.getItem(STORED) !== "off";
  } catch {
    return true; // a browser may refuse to keep anything; then the switch lasts as long as the page
  }
}

function turn(on) {
  areOn = on;
  try {
    if (on) localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, "off");
  } catch {
    // as above
  }
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
