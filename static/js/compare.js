// Two answers side by side: while one of them is being written, the page is kept up to date.
import { announce, fetchPage, refreshParts } from "./page.js";

const EVERY_MS = 1000;
const comparison = document.querySelector('[data-part="comparison"]');
let isLive = "live" in comparison.dataset;

async function refresh() {
  const fresh = document.hidden ? null : await fetchPage();
  const renewed = fresh?.querySelector('[data-part="comparison"]');
  if (renewed) {
    refreshParts(fresh);
    isLive = "live" in renewed.dataset;
  }
  if (isLive) setTimeout(refresh, EVERY_MS);
  else announce("Both answers have ended.");
}

if (isLive) setTimeout(refresh, EVERY_MS);
