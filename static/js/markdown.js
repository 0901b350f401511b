// Markdown to elements, block by block. Nothing a model wrote is ever HTML: the parser is told of no tags, its output goes through
// DOMPurify with a short list of elements, and links are looked at once more in the tree.
import { Lexer, Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/dompurify.js";
import { inSlices } from "./slices.js";
import { isHeavyBlock, isHeavyLine, pieces } from "./weight.js";

const PURIFY = {
  ALLOWED_TAGS: ["p", "br", "strong", "em", "del", "code", "pre", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "hr",
    "table", "thead", "tbody", "tr", "th", "td", "a"],
  ALLOWED_ATTR: ["href", "start", "align", "class", "data-language"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const LINKS = ["http:", "https:", "mailto:"];
const LONGEST = 300_000; // characters; beyond that an answer stays plain text, so that the page stays quick

const marked = new Marked({
  gfm: true,
  breaks: true,
  tokenizer: { html: () => undefined, tag: () => undefined }, // `<b>` is three characters
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || "image")}</a>`, // nothing is fetched from elsewhere
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code: ({ text, lang }) => `<pre data-language="${escape((lang || "").split(/\s/)[0])}"><code>${escape(text)}</code></pre>`,
    heading({ tokens, depth }) {
      const tag = `h${Math.min(6, depth + 3)}`; // below the page's own headings
      return `<${tag} class="level-${depth}">${this.parser.parseInline(tokens)}</${tag}>`;
    },
  },
});

// Shows a text that grows. Only blocks that changed are made anew, and only what may still change is parsed again. What takes long
// is done in slices; `onShown` is called after each of them.
export class MarkdownView {
  #element;
  #onShown;
  #blocks = []; // {raw, type, node}
  #settled = 0; // characters whose blocks are closed
  #closed = 0; // how many blocks that is
  #wanted = null; // {text, isWhole}: what to show next
  #task = null; // of the slices that are being done, if any
  #done = Promise.resolve();

  constructor(element, onShown = () => {}) {
    this.#element = element;
    this.#onShown = onShown;
  }

  clear() {
    this.#wanted = this.#task = null;
    this.#blocks = [];
    this.#settled = this.#closed = 0;
    this.#element.replaceChildren();
  }

  // The text so far. Resolves once it, or a later one, is shown; a short one is shown at once.
  update(text) {
    return this.#want({ text, isWhole: false });
  }

  // The whole text: parsed once from its beginning, since a link may be defined after its use.
  finish(text) {
    return this.#want({ text, isWhole: true });
  }

  #want(wanted) {
    this.#wanted = wanted;
    if (!this.#task) this.#done = this.#work((this.#task = {}));
    return this.#done;
  }

  async #work(task) {
    while (this.#task === task && this.#wanted) {
      const { text, isWhole } = this.#wanted;
      this.#wanted = null;
      await inSlices(this.#steps(text, isWhole), () => this.#task === task, this.#onShown);
    }
    if (this.#task === task) this.#task = null;
  }

  *#steps(text, isWhole) {
    const normal = text.replace(/\r\n?/g, "\n");
    if (normal.length > LONGEST) return this.#showPlain(text);
    if (isWhole) this.#settled = this.#closed = 0;
    const tokens = yield* lex(normal.slice(this.#settled));
    yield* this.#show(tokens, this.#closed);
    this.#settle(normal);
  }

  #showPlain(text) {
    this.#blocks = [];
    this.#settled = this.#closed = 0;
    this.#element.classList.remove("rendered");
    this.#element.textContent = text;
  }

  *#show(tokens, from) {
    if (!this.#blocks.length) this.#element.replaceChildren();
    this.#element.classList.add("rendered");
    for (const [index, token] of tokens.entries()) {
      const old = this.#blocks[from + index];
      const block = { raw: token.raw, key: keyOf(token), type: token.type, lang: token.lang };
      if (old?.key === block.key) continue;
      if (old && grows(old, block)) {
        block.node = old.node;
        block.node.querySelector("code").firstChild.data = token.text;
      } else {
        block.node = render(token);
        if (old) old.node.replaceWith(block.node);
        else this.#element.append(block.node);
      }
      this.#blocks[from + index] = block;
      yield;
    }
    for (const block of this.#blocks.splice(from + tokens.length)) block.node.remove();
  }

  // All but the last block are closed: what comes later cannot change them.
  #settle(text) {
    for (; this.#closed < this.#blocks.length - 1; this.#closed++) {
      const start = text.indexOf(this.#blocks[this.#closed].raw, this.#settled);
      if (start < 0 || text.slice(this.#settled, start).trim()) return;
      this.#settled = start + this.#blocks[this.#closed].raw.length;
    }
  }
}

// The tokens of a text. A parser's work can grow with the square of what it is given, so what is heavy is never given to it.
function* lex(text) {
  const lexer = new Lexer(marked.defaults);
  for (const piece of pieces(text)) {
    const before = [lexer.tokens.length, lexer.inlineQueue.length];
    if (isHeavyBlock(piece) || !lexBlocks(lexer, piece) || lexer.inlineQueue.slice(before[1]).some(({ src }) => isHeavyLine(src))) {
      [lexer.tokens.length, lexer.inlineQueue.length] = before;
      lexer.tokens.push({ type: "plain", raw: piece });
    }
    yield;
  }
  for (const { src, tokens } of lexer.inlineQueue) {
    lexer.inlineTokens(src, tokens);
    yield;
  }
  return lexer.tokens.filter(({ type }) => type !== "space" && type !== "def");
}

function lexBlocks(lexer, piece) {
  try {
    lexer.blockTokens(piece, lexer.tokens);
    return true;
  } catch {
    return false; // nested deeper than a parser can go
  }
}

// A block looks the same if its source does, and if the links defined elsewhere led to the same elements.
function keyOf(token) {
  return token.raw.includes("[") && token.tokens ? token.raw + "\0" + JSON.stringify(token.tokens) : token.raw;
}

function grows(old, block) {
  return old.type === "code" && block.type === "code" && old.lang === block.lang && old.node.querySelector("code")?.firstChild;
}

function render(token) {
  const block = document.createElement("div");
  block.className = "block";
  if (token.type === "plain") return showRaw(block, token);
  try {
    block.append(DOMPurify.sanitize(marked.parser([token]), PURIFY));
    block.querySelectorAll("a").forEach(tame);
    block.querySelectorAll("pre").forEach(frameCode);
    block.querySelectorAll("table").forEach(frameTable);
    block.querySelectorAll("p, li, h4, h5, h6, blockquote, ul, ol, th, td").forEach((element) => element.setAttribute("dir", "auto"));
    return block;
  } catch {
    return showRaw(block, token);
  }
}

// As it was written.
function showRaw(block, { raw }) {
  block.textContent = raw.trimEnd();
  block.classList.add("plain");
  block.dir = "auto";
  return block;
}

function tame(link) {
  const url = URL.parse ? URL.parse(link.getAttribute("href")) : parseUrl(link.getAttribute("href"));
  if (!url || !LINKS.includes(url.protocol)) return link.replaceWith(...link.childNodes);
  link.rel = "noopener noreferrer nofollow";
  link.target = "_blank";
  link.dataset.host = url.host || url.pathname;
}

function parseUrl(text) {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}

function frameCode(pre) {
  const frame = document.getElementById("code-template").content.firstElementChild.cloneNode(true);
  const language = pre.dataset.language || "";
  frame.querySelector("span").textContent = language || "code";
  frame.querySelector("button").setAttribute("aria-label", language ? `Copy the ${language} code` : "Copy the code");
  pre.replaceWith(frame);
  frame.append(pre);
  pre.tabIndex = 0; // so that it can be scrolled from the keyboard
  pre.dir = "ltr";
}

function frameTable(table) {
  const frame = document.createElement("div");
  frame.className = "table";
  frame.tabIndex = 0;
  table.replaceWith(frame);
  frame.append(table);
}

function escape(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
