// Event streams as the WHATWG describes them: bytes in, events out. Knows nothing of answers.

// Takes the text in pieces of any size and gives back the events that became complete; what is incomplete is never given.
export class EventParser {
  #line = "";
  #data = [];
  #type = "";
  #id = "";
  #afterCarriageReturn = false;

  push(text) {
    if (this.#afterCarriageReturn && text.startsWith("\n")) text = text.slice(1);
    if (text) this.#afterCarriageReturn = text.endsWith("\r");
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    return lines.map((line) => this.#read(line)).filter(Boolean);
  }

  #read(line) {
    if (line === "") return this.#dispatch();
    const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id") this.#id = value;
    return null; // a line that begins with a colon is a comment
  }

  #dispatch() {
    const event = this.#data.length ? { type: this.#type || "message", data: this.#data.join("\n"), id: this.#id } : null;
    this.#data = [];
    this.#type = "";
    return event;
  }
}

// Reads a response's body to its end. `onBytes` is called whenever anything came, a comment too.
export async function* readEvents(body, onBytes) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onBytes();
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
