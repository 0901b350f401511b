// Writes an answer once more as it came, at its own speed or four times as fast.
import { MarkdownView } from "./markdown.js";
import { announce } from "./page.js";
import { markHidden } from "./visible.js";

// On a page that has a replay: `text` is the whole answer.
export function enableReplay(text) {
  const controls = document.querySelector('[data-part="replay"]');
  if (controls && !controls.dataset.enabled) new Replay(controls, text);
}

class Replay {
  #text;
  #end; // ms
  #moments; // [characters so far, ms]
  #position = 0;
  #speed = 1;
  #isPlaying = false;
  #last = 0; // when the frame before was drawn
  #shown = 0; // characters
  #view;

  constructor(controls, text) {
    controls.dataset.enabled = "";
    this.controls = controls;
    this.box = document.querySelector('[data-part="replayed"]');
    this.slider = controls.querySelector("input");
    this.button = controls.querySelector('[data-replay="toggle"]');
    this.#text = text;
    this.#end = Number(controls.dataset.end);
    this.#moments = momentsOf(text, JSON.parse(controls.dataset.timeline));
    this.#view = new MarkdownView(this.box, () => (this.box.scrollTop = this.box.scrollHeight));
    controls.addEventListener("click", ({ target }) => this.#onClick(target.closest("button")));
    this.slider.addEventListener("input", () => this.#seek(Number(this.slider.value)));
    this.#draw();
  }

  #onClick(button) {
    if (button?.dataset.speed) {
      this.#speed = Number(button.dataset.speed);
      for (const other of this.controls.querySelectorAll("[data-speed]")) other.setAttribute("aria-pressed", other === button);
    } else if (button?.dataset.replay === "toggle" && this.#isPlaying) {
      this.#rest("Go on");
    } else if (button) {
      if (button.dataset.replay === "start" || this.#position >= this.#end) this.#seek(0);
      this.#play();
    }
  }

  #play() {
    if (!this.#isPlaying) requestAnimationFrame((now) => this.#frame((this.#last = now)));
    if (!this.#position) announce("The replay has started.");
    this.#isPlaying = true;
    this.box.hidden = false;
    this.box.scrollIntoView({ block: "nearest" });
    this.button.textContent = "Pause";
    this.#draw();
  }

  #rest(label) {
    this.#isPlaying = false;
    this.button.textContent = label;
  }

  #frame(now) {
    if (!this.#isPlaying) return;
    this.#position = Math.min(this.#end, this.#position + (now - this.#last) * this.#speed);
    this.#last = now;
    this.#draw();
    if (this.#position < this.#end) requestAnimationFrame((next) => this.#frame(next));
    else this.#finish();
  }

  async #finish() {
    this.#rest("Replay");
    announce("The replay has ended.");
    await this.#view.finish(this.#text);
    if (this.#position >= this.#end) markHidden(this.box);
  }

  #seek(position) {
    this.#position = position;
    this.box.hidden = false;
    if (!this.#isPlaying) this.button.textContent = position < this.#end ? "Go on" : "Replay";
    this.#draw();
  }

  #draw() {
    const characters = this.#moments.findLast(([, ms]) => ms <= this.#position)?.[0] ?? 0;
    if (characters !== this.#shown) {
      if (characters < this.#shown) this.#view.clear(); // a view only grows
      if (characters) this.#view.update(this.#text.slice(0, characters));
      this.#shown = characters;
    }
    const words = `${seconds(this.#position)} of ${seconds(this.#end)} s`;
    this.controls.querySelector('[data-part="replay-time"]').textContent = words;
    this.slider.value = this.#position;
    this.slider.setAttribute("aria-valuetext", words);
    for (const picture of document.querySelectorAll(".timeline svg")) {
      const head = picture.querySelector(".playhead");
      head.toggleAttribute("hidden", this.box.hidden);
      head.setAttribute("transform", `translate(${Number(picture.dataset.left) + this.#position * Number(picture.dataset.unit)})`);
    }
  }
}

// Bytes of UTF-8 to characters of a string: a piece may end inside of neither.
function momentsOf(text, timeline) {
  const bytes = new TextEncoder().encode(text);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let at = 0;
  let characters = 0;
  return timeline.map(([offset, ms]) => {
    characters += decoder.decode(bytes.subarray(at, offset), { stream: true }).length;
    at = Math.max(at, offset);
    return [characters, ms];
  });
}

function seconds(ms) {
  return (ms / 1000).toFixed(1);
}
