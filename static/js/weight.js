// What a Markdown parser may be given. Its work can grow with the square of the length, so that a short answer could hold the page
// for minutes; these checks read a text once.
const BLOCK = { characters: 16_000, lines: 1000, cells: 4000, columns: 40 };
const LINE = { product: 4_000_000, word: 2000 };
const DELIMITERS = /[*_~`[\]<>!&\\@:]/g;
const FENCE = /^([ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)(`{3,}(?=[^`]*$)|~{3,})/; // one in a quote ends with it, before any blank line
const MARKER = /^(?:[ \t]|>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))/;

// The text in pieces, cut at blank lines where no Markdown block can go on, whatever it is: before a line that begins at the margin
// and is no item of a list, outside of fenced code. Where that is in doubt, the rest is one piece.
export function* pieces(text) {
  let start = 0;
  let fence = null;
  let wasBlank = false;
  for (const { line, at, fence: now } of linesOf(text)) {
    const begins = wasBlank && !fence && /^[^\s>]/.test(line) && !/^(?:[-*+]|\d{1,9}[.)])(?:\s|$)/.test(line);
    if (begins && at > start) {
      yield text.slice(start, at);
      start = at;
    }
    fence = now;
    wasBlank = !line.trim();
  }
  if (start < text.length) yield text.slice(start);
}

// Each line, where it begins, and the fence that is open after it: {prefix, mark}, or "doubtful" to the end.
function* linesOf(text) {
  let fence = null;
  for (let at = 0, end; at < text.length; at = end + 1) {
    end = text.indexOf("\n", at);
    if (end < 0) end = text.length;
    const line = text.slice(at, end);
    const wasFenced = Boolean(fence);
    if (fence !== "doubtful") fence = fenceAfter(line, fence);
    yield { line, at, fence, isCode: wasFenced && fence !== "doubtful" };
  }
}

// A fence at the margin ends with another there. One that is indented may be in an item of a list, which any line at the margin ends.
function fenceAfter(line, fence) {
  const found = FENCE.exec(line.slice(0, 4000));
  if (!fence) return found && { prefix: found[1], mark: found[2] };
  if (fence.prefix && /^\S/.test(line)) return "doubtful";
  if (!found || found[1].trim() || !found[2].startsWith(fence.mark) || line.slice(found[0].length).trim()) return fence;
  if (fence.prefix) return found[1].replace(/\t/g, "    ").length > fence.prefix.length ? "doubtful" : null;
  return found[1].length > 3 || found[1].includes("\t") ? fence : null;
}

// Too much for the block parser: too long, too wide or too deep. Fenced code is not counted, however long it is.
export function isHeavyBlock(piece) {
  let characters = 0;
  let lines = 0;
  let widest = 0;
  for (const { line, isCode } of linesOf(piece)) {
    if (isCode) continue;
    characters += line.length + 1;
    lines += 1;
    widest = Math.max(widest, count(line, /\|/g));
    if (characters > BLOCK.characters || lines > BLOCK.lines || widest * lines > BLOCK.cells || depth(line) > BLOCK.columns) return true;
  }
  return false;
}

// How many columns of a line are indentation and marks of lists and quotes.
function depth(line) {
  let at = 0;
  for (let found; at <= BLOCK.columns && (found = MARKER.exec(line.slice(at, at + 12))); ) at += found[0].length;
  return line.trim() ? at : 0;
}

// Too much for the inline parser, whose work is at worst the length times the delimiters in it.
export function isHeavyLine(text) {
  if (count(text, DELIMITERS) * text.length > LINE.product) return true;
  return text.length > LINE.word && text.split(/\s/).some(({ length }) => length > LINE.word);
}

function count(text, pattern) {
  return text.match(pattern)?.length ?? 0;
}
