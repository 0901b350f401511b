// Where somebody logs in: what the one before had typed in this tab and not sent is not for the next one to see.
import "./page.js";

try {
  sessionStorage.clear();
} catch {
  // a browser that keeps nothing has nothing to forget
}
