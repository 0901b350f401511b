// A user's thumb up or down under an answer. The one that is pressed can be pressed again, which takes it back.
import { announce } from "./page.js";

const WORDS = { good: "Marked as a good answer.", bad: "Marked as a bad answer.", none: "The thumb was taken back." };

export function enableThumbs() {
  document.addEventListener("submit", (event) => {
    const form = event.target.closest('[data-part="thumbs"]');
    if (!form) return;
    event.preventDefault();
    give(form, event.submitter);
  });
}

async function give(form, button) {
  const rating = button.getAttribute("aria-pressed") === "true" ? null : button.dataset.rating;
  const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ role: "user", rating }) };
  const response = await fetch(form.action, sent).catch(() => null);
  form.toggleAttribute("data-trouble", !response?.ok);
  if (!response?.ok) return announce("The thumb was not saved. Try it again in a moment.");
  for (const other of form.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other.dataset.rating === rating));
  announce(WORDS[rating || "none"]);
}
