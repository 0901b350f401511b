// Long work in slices, so that scrolling and every button stay quick. All that is done this way shares one slice a frame.
const SLICE_MS = 10;
let until = 0; // when the slice of this frame is used up
let frame = null;

// Does `steps` (a generator) to its end, at once if that is short. Stops early once `isWanted` says no.
export async function inSlices(steps, isWanted, afterSlice) {
  if (!frame && performance.now() > until + SLICE_MS) until = performance.now() + SLICE_MS;
  for (;;) {
    while (performance.now() < until) {
      if (!isWanted()) return;
      if (steps.next().done) return afterSlice();
    }
    afterSlice();
    await nextFrame();
    if (!isWanted()) return;
  }
}

function nextFrame() {
  frame ??= new Promise((resolve) => {
    const begin = () => {
      frame = null;
      until = performance.now() + SLICE_MS;
      resolve();
    };
    if (document.hidden) setTimeout(begin); // no frames are drawn there
    else requestAnimationFrame(begin);
  });
  return frame;
}
