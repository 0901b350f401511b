// One turn on the page: its prompt, its answer as it grows, how that ended. Knows nothing of the network.
import { MarkdownView } from "./markdown.js";

const RENDER_MS = 50;

export class Turn {
  text = "";
  onShown = () => {}; // more of the answer stands on the page
  #view;
  #timer = 0;
  #cost = 0; // how long the last rendering took: a slow one is done less often

  static blank(prompt) {
    const element = document.getElementById("turn-template").content.firstElementChild.cloneNode(true);
    const turn = new Turn(element);
    turn.part("prompt").textContent = prompt;
    return turn;
  }

  constructor(element) {
    this.element = element;
    element.turn = this;
    this.text = this.part("answer").textContent;
    this.#view = new MarkdownView(this.part("answer"), () => this.onShown());
    if (this.text) this.#view.finish(this.text);
  }

  part(name) {
    return this.element.querySelector(`[data-part="${name}"]`);
  }

  get prompt() {
    return this.part("prompt").textContent;
  }

  get completionId() {
    return Number(this.element.dataset.completionId) || null;
  }

  get versions() {
    return this.element.dataset.versions.split(",").filter(Boolean);
  }

  // An answer is on its way. If it is another one, what is shown stays, paler, until that begins.
  begin(isAnother = false) {
    this.element.setAttribute("aria-busy", "true");
    this.element.toggleAttribute("data-old", isAnother);
    this.element.dataset.status = "in_progress";
    this.part("note").replaceChildren();
    this.part("actions").hidden = true;
    this.progress("Waiting for the first word");
  }

  progress(words) {
    this.part("progress").hidden = !words;
    this.part("progress-text").textContent = words || "";
  }

  created(completionId) {
    this.element.dataset.completionId = completionId;
    if (!this.versions.includes(String(completionId))) {
      this.element.dataset.versions = [...this.versions, completionId].join(",");
      this.show("");
    }
  }

  // The text so far, shown at the next chance.
  show(text) {
    this.text = text;
    this.element.removeAttribute("data-old");
    if (!text) this.#view.clear();
    else this.#timer ||= setTimeout(() => this.#render(), Math.max(RENDER_MS, 4 * this.#cost));
  }

  async #render() {
    const start = performance.now();
    this.#timer = 0;
    await this.#view.update(this.text);
    this.#cost = performance.now() - start;
  }

  // It ended: {status, reason, finish_reason}.
  end(ending) {
    this.element.dataset.status = ending.status;
    const note = ending.status !== "completed" || ["length", "content_filter"].includes(ending.finish_reason) ? this.#endingNote(ending) : null;
    this.#rest(note);
  }

  // No ending is known: the service refused, or the connection is gone. `choices` are [label, action] pairs.
  break(title, detail, sentences, choices) {
    const note = element("div", { className: "note" });
    note.dataset.kind = "failed";
    note.setAttribute("role", "alert");
    const words = element("p");
    words.append(element("strong", { textContent: title }), ` ${detail}`);
    note.append(words);
    if (sentences.length) {
      const list = element("ul");
      list.append(...sentences.map((textContent) => element("li", { textContent })));
      note.append(list);
    }
    const row = element("div", { className: "choices" });
    for (const [textContent, action] of choices) {
      const button = element("button", { className: "button", type: "button", textContent });
      button.addEventListener("click", action);
      row.append(button);
    }
    note.append(row);
    this.element.dataset.status = "broken";
    this.#rest(note);
  }

  #endingNote({ status, reason }) {
    const kind = status === "completed" ? "length" : status;
    const note = document.querySelector("#note-templates").content.querySelector(`[data-kind="${kind}"]`).cloneNode(true);
    note.querySelector('[data-part="reason"]').textContent = status === "cancelled" ? "" : reason;
    if (!this.text) note.querySelector('[data-part="kept"]')?.remove();
    if (status !== "completed") {
      const again = this.element.querySelector(".actions [data-regenerate]").cloneNode(true);
      const button = again.querySelector("button");
      button.className = "button";
      button.textContent = "Try again";
      again.className = "choices";
      note.append(again);
      if (status !== "cancelled") note.setAttribute("role", "alert");
    }
    return note;
  }

  #rest(note) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#view.finish(this.text);
    this.element.removeAttribute("aria-busy");
    this.element.removeAttribute("data-old");
    this.progress(null);
    this.#fillActions();
    this.part("note").replaceChildren(...(note ? [note] : []));
  }

  // Another answer has no thumb yet.
  #offerThumbs(address) {
    const form = this.part("thumbs");
    if (form.getAttribute("action") === address) return;
    form.action = address;
    for (const button of form.querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
  }

  #fillActions() {
    const id = this.completionId;
    this.part("actions").hidden = !id;
    this.part("details").href = `/history/${id}`;
    this.#offerThumbs(`/history/${id}/reviews`);
    this.element.querySelector('[data-copy="answer"]').hidden = !this.text;
    for (const input of this.element.querySelectorAll('input[name="regenerate"]')) input.value = id;
    const versions = this.versions;
    const links = versions.slice(0, -1).flatMap((version, index) => [index ? ", " : " ", element("a", { href: `/history/${version}`, textContent: index + 1 })]);
    this.part("versions").replaceChildren(...(links.length ? [`Version ${versions.length} of ${versions.length}; earlier:`, ...links] : []));
  }
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
