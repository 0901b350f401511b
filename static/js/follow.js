// Scrolling that follows what is being written, and lets go as soon as the reader scrolls up.
const NEAR_PX = 24;
const UP_KEYS = ["ArrowUp", "PageUp", "Home"];

export class Follow {
  #following = true;
  #lastTop = 0;

  constructor(button) {
    this.button = button;
    this.#lastTop = scrollY;
    addEventListener("scroll", () => this.#scrolled(), { passive: true });
    addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#letGo(), { passive: true });
    addEventListener("keydown", ({ key, target }) => UP_KEYS.includes(key) && !target.closest("textarea, select") && this.#letGo());
    button.addEventListener("click", () => {
      this.take();
      document.getElementById("prompt").focus({ preventScroll: true });
    });
  }

  // From now on follow, wherever the reader is.
  take() {
    this.#following = true;
    this.toEnd();
  }

  // Something grew.
  toEnd() {
    if (this.#following) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
    this.#show();
  }

  #letGo() {
    if (isScrollable()) this.#following = false;
    this.#show();
  }

  #scrolled() {
    if (scrollY < this.#lastTop - 1 && !isAtEnd()) this.#following = false;
    else if (scrollY > this.#lastTop && isAtEnd()) this.#following = true;
    this.#lastTop = scrollY;
    this.#show();
  }

  #show() {
    this.button.hidden = this.#following || isAtEnd();
  }
}

function isScrollable() {
  return document.documentElement.scrollHeight > innerHeight + 1;
}

function isAtEnd() {
  return scrollY + innerHeight >= document.documentElement.scrollHeight - NEAR_PX;
}
