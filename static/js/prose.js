// Answers that stand beside the one a page is about, in the same conversation: shown as Markdown when they are about to be seen.
import { MarkdownView } from "./markdown.js";
import { markHidden } from "./visible.js";

const seen = new IntersectionObserver(onSeen, { rootMargin: "50%" });

export function renderWhenSeen(boxes) {
  for (const box of boxes) seen.observe(box);
}

async function onSeen(entries) {
  for (const { target } of entries.filter(({ isIntersecting }) => isIntersecting)) {
    seen.unobserve(target);
    await new MarkdownView(target).finish(target.textContent);
    markHidden(target);
  }
}
