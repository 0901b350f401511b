// One answer as the service streams it: asked for once, read to its end over as many connections as that takes.
import { newKey } from "./page.js";
import { readEvents } from "./sse.js";

const WAITS_MS = [300, 700, 1500, 3000, 6000];
const SILENCE_MS = 30_000; // the service sends at least a comment every 10 s
const ENDINGS = ["completed", "failed", "incomplete", "cancelled"];
const encoder = new TextEncoder();

// The service refused: the problem document (RFC 9457) that it sent.
export class Problem extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail || problem.title || `The service answered with ${status}.`);
    this.status = status;
    this.title = problem.title || "The service refused";
    this.errors = problem.errors || {};
    this.retryAfter = retryAfter;
  }

  static async from(response) {
    const isProblem = (response.headers.get("Content-Type") || "").startsWith("application/problem+json");
    const problem = isProblem ? await response.json().catch(() => ({})) : {};
    return new Problem(response.status, problem, Number(response.headers.get("Retry-After")) || null);
  }
}

// The connection was lost, and so were the attempts to take it up again.
export class ConnectionLost extends Error {}

export class Answer {
  text = "";
  #after = 0; // bytes of UTF-8 that we have
  #key = newKey(); // the same for every attempt, so that a retry never makes a second answer
  #stopWanted = false;

  // Either `body`, what POST /stream is asked, or the `id` of an answer that exists.
  constructor({ body = null, id = null }) {
    this.body = body;
    this.id = id;
  }

  // Yields {type: "created" | "delta" | "waiting" | an ending, data}. Throws Problem or ConnectionLost; after that it can be called again.
  async *read() {
    for (let attempt = 0; ; attempt++) {
      try {
        for await (const event of this.#readOnce()) {
          if (event.type === "delta") attempt = 0;
          yield event;
          if (ENDINGS.includes(event.type)) return;
        }
      } catch (error) {
        const passing = !(error instanceof Problem) || (this.id !== null && error.status >= 500);
        if (!passing) throw error;
      }
      if (attempt >= WAITS_MS.length) throw new ConnectionLost();
      yield { type: "waiting" };
      await pause(WAITS_MS[attempt]);
    }
  }

  async *#readOnce() {
    const control = new AbortController();
    let timer;
    const restart = () => {
      clearTimeout(timer);
      timer = setTimeout(() => control.abort(), SILENCE_MS);
    };
    restart();
    try {
      const response = await this.#connect(control.signal);
      if (!response.ok) throw await Problem.from(response);
      for await (const { type, data, id } of readEvents(response.body, restart)) {
        const event = { type, data: JSON.parse(data) };
        if (type === "created") this.#created(event.data);
        if (type !== "delta" || this.#take(event.data.text, Number(id))) yield event;
      }
    } finally {
      clearTimeout(timer);
      control.abort();
    }
  }

  #connect(signal) {
    const headers = { Accept: "text/event-stream" };
    if (this.id !== null) return fetch(`/stream/${this.id}?after=${this.#after}`, { headers, signal, cache: "no-store" });
    headers["Content-Type"] = "application/json";
    headers["Idempotency-Key"] = this.#key;
    const token = document.querySelector('[name="csrf_token"]'); // by it the service knows who this page was made for
    if (token) headers["X-CSRFToken"] = token.value;
    return fetch("/stream", { method: "POST", headers, body: JSON.stringify(this.body), signal });
  }

  #created({ completion_id }) {
    this.id = completion_id;
    if (this.#stopWanted) this.stop().catch(() => {});
  }

  // Adds a piece. False if we had it; a piece that does not join on where we are means that one is missing: connect anew from there.
  #take(text, end) {
    if (end <= this.#after) return false;
    if (end !== this.#after + encoder.encode(text).length) throw new Error("a piece is missing");
    this.text += text;
    this.#after = end;
    return true;
  }

  // Asks the service to stop; the stream then ends with `cancelled`.
  async stop() {
    this.#stopWanted = true;
    if (this.id === null) return;
    const response = await fetch(`/stream/${this.id}`, { method: "DELETE" });
    if (!response.ok) throw await Problem.from(response);
  }
}

// Waits, but no longer than until the machine is back on the network.
function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
    addEventListener("online", resolve, { once: true });
  });
}
