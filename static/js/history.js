// The history page: while a completion on it is being written, its row is kept up to date.
import { fetchPage, localiseTimes } from "./page.js";

const EVERY_MS = 1000;
const isLive = () => document.querySelector('.row[data-status="in_progress"]');

async function refresh() {
  const fresh = document.hidden ? null : await fetchPage();
  if (fresh) localiseTimes(fresh);
  for (const row of fresh ? document.querySelectorAll('.row[data-status="in_progress"]') : []) renew(row, fresh.getElementById(row.id));
  if (isLive()) setTimeout(refresh, EVERY_MS);
}

function renew(row, fresh) {
  if (!fresh || fresh.outerHTML === row.outerHTML) return;
  const hadFocus = row.contains(document.activeElement);
  row.replaceWith(fresh);
  if (hadFocus) fresh.querySelector("a").focus({ preventScroll: true });
}

if (isLive()) setTimeout(refresh, EVERY_MS);
