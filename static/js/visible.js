// Hidden characters made visible where the script has written a text: what llmstream/visible.py does, with the same pattern.
const JOINABLE = "\\u0590-\\u1fff\\u2190-\\u2bff\\ua800-\\uabff\\ufb1d-\\ufdff\\ufe0f\\ufe70-\\ufefe\\u{10800}-\\u{11fff}\\u{1f000}-\\u{1faff}";
const ALWAYS = "\\0-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b\\u200e\\u200f"
  + "\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff9-\\ufffb\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0080}-\\u{e00ff}"
  + "\\u{e01f0}-\\u{e0fff}";
const HIDDEN = new RegExp(
  "\\u{1f3f4}[\\u{e0030}-\\u{e0039}\\u{e0061}-\\u{e007a}]{3,6}\\u{e007f}"
    + "|(?<marked>[\\ufe00-\\ufe0f\\u{e0100}-\\u{e01ef}]{2,}|[\\u{e0000}-\\u{e007f}]+"
    + `|(?<one>[${ALWAYS}]|\\r(?!\\n)|(?<![${JOINABLE}])[\\u200c\\u200d])\\k<one>*)`,
  "gu",
);
const MOST_MARKS = 1000;

// The names come with the page: the server has marked the same characters there.
const names = new Map();
learnNames(document);

export function learnNames(root) {
  for (const { textContent, title } of root.querySelectorAll(".hidden-character")) {
    if (textContent) names.set(textContent.codePointAt(0), title.replace(/, \d+ in a row$/, ""));
  }
}

// Marks what is hidden in the text nodes of `element`. Its text content stays.
export function markHidden(element) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement.closest(".hidden-character") && node.data.search(HIDDEN) >= 0) nodes.push(node);
  }
  let room = MOST_MARKS - element.querySelectorAll(".hidden-character").length;
  for (const node of nodes) room = markNode(node, room);
}

function markNode(node, room) {
  const text = node.data;
  const parts = [];
  let at = 0;
  for (const { 0: run, index, groups } of text.matchAll(HIDDEN)) {
    if (!groups.marked) continue;
    if (room-- <= 0) break;
    parts.push(text.slice(at, index), markOf(run));
    at = index + run.length;
  }
  node.replaceWith(...parts, text.slice(at));
  return room;
}

function markOf(run) {
  const codes = Array.from(run, (character) => character.codePointAt(0));
  const known = names.get(codes[0]) || (codes[0] < 0xa0 ? "control character" : "hidden character");
  const name = codes.length > 1 && !known.startsWith("hidden text") ? `${known}, ${codes.length} in a row` : known;
  const mark = document.createElement("bdi");
  mark.className = "hidden-character";
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", `[${name}]`);
  mark.title = name;
  mark.dataset.code = `U+${codes[0].toString(16).toUpperCase().padStart(4, "0")}${codes.length > 1 ? ` x${codes.length}` : ""}`;
  mark.textContent = run;
  return mark;
}
