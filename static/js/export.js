// Downloads in parts of the ids: each part comes whole or again, so a broken connection costs seconds and not the file.
import { announce } from "./page.js";

const ROWS_A_PART = 5000;
const WAITS_MS = [500, 1000, 2000, 4000, 8000];
const formats = document.querySelector('[data-part="formats"]');

formats?.addEventListener("click", (event) => {
  const link = event.target.closest("[data-format]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (!link.dataset.running) new Download(link).run();
});

class Download {
  constructor(link) {
    this.link = link;
    this.box = link.parentElement.querySelector('[data-part="under-way"]');
    this.bar = this.box.querySelector("progress");
    this.said = this.box.querySelector('[data-part="said"]');
    this.button = this.box.querySelector('[data-part="end"]');
    this.total = Number(formats.dataset.count);
    this.last = Number(formats.dataset.last);
    this.isTable = link.dataset.format.endsWith(".csv");
    this.isFull = this.isTable || link.dataset.format === "history.jsonl"; // else some answers are left out
    this.size = Math.ceil(this.last / Math.max(1, Math.ceil(this.total / ROWS_A_PART)));
    this.parts = [];
    this.after = 0;
    this.rows = 0;
  }

  async run() {
    this.link.dataset.running = "yes";
    this.box.hidden = false;
    this.offer("Cancel", () => this.stopping.abort());
    this.stopping = new AbortController();
    announce("The download has started");
    try {
      while (this.after < this.last) await this.part();
      this.finish();
    } catch (error) {
      this.pause(error);
    }
    delete this.link.dataset.running;
  }

  async part() {
    const upto = Math.min(this.last, this.after + this.size);
    for (let attempt = 0; ; attempt++) {
      try {
        const { piece, rows } = await this.fetch(upto);
        this.parts.push(piece);
        this.rows += rows;
        this.after = upto;
        return this.show(this.rows);
      } catch (error) {
        if (error.final || this.stopping.signal.aborted || attempt === WAITS_MS.length) throw error;
        this.said.textContent = `The connection broke at ${this.words(this.rows)}. Trying again.`;
        await new Promise((resolve) => setTimeout(resolve, WAITS_MS[attempt]));
      }
    }
  }

  async fetch(upto) {
    const query = new URLSearchParams(formats.dataset.query);
    if (this.after) query.set("after", this.after);
    query.set("upto", upto);
    const response = await fetch(`/${this.link.dataset.format}?${query}`, { signal: this.stopping.signal, cache: "no-store" });
    if (!response.ok) throw Object.assign(new Error(), { final: response.status < 500 });
    this.name ||= /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition"))?.[1];
    const pieces = [];
    let rows = this.after || !this.isTable ? 0 : -1; // the headings are no row
    let quoted = false;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read(); // it fails where the answer is cut
      if (done) return { piece: new Blob(pieces), rows };
      for (const byte of value) {
        if (byte === 34) quoted = this.isTable && !quoted;
        else if (byte === 10 && !quoted) rows++;
      }
      pieces.push(value);
      this.show(this.rows + Math.max(0, rows));
    }
  }

  show(rows) {
    this.bar.value = this.isFull ? rows / this.total : this.after / this.last;
    this.said.textContent = this.words(rows);
  }

  words(rows) {
    const count = rows.toLocaleString("en");
    return this.isFull ? `${count} of ${this.total.toLocaleString("en")} rows` : `${count} ${rows === 1 ? "line" : "lines"}`;
  }

  finish() {
    const save = document.createElement("a");
    save.href = URL.createObjectURL(new Blob(this.parts));
    save.download = this.name || this.link.dataset.format;
    save.click();
    setTimeout(() => URL.revokeObjectURL(save.href), 60000);
    this.bar.value = 1;
    const changed = this.isFull && this.rows !== this.total ? " The history changed meanwhile." : "";
    this.said.textContent = `${this.words(this.rows)} are in ${save.download}.${changed}`;
    announce(this.said.textContent);
    this.offer("Close", () => (this.box.hidden = true));
  }

  pause(error) {
    const stopped = this.stopping.signal.aborted;
    this.said.textContent = stopped
      ? `Stopped at ${this.words(this.rows)}; nothing was saved.`
      : error.final
        ? "The service refused this export. Load the page again."
        : `The service does not answer. ${this.words(this.rows)} are here; the rest can be fetched later.`;
    announce(this.said.textContent);
    this.offer("Continue", () => this.run());
  }

  offer(label, action) {
    this.button.textContent = label;
    this.button.onclick = action;
  }
}
