// The form that judges an answer, on its own page and in the queue.

// `answer` gives what the model wrote: a correction begins as that, and left as it is it is none.
export function enableJudging(root, answer) {
  const form = root.querySelector('[data-part="judge-form"]');
  if (!form) return;
  const { correction, reason } = form.elements;
  const begin = () => {
    if (!correction.value && new Blob([answer()]).size <= 65536) correction.value = answer();
  };
  correction.closest("details").addEventListener("toggle", begin);
  correction.addEventListener("focus", begin); // a key's first letters come before the toggle is told
  form.addEventListener("formdata", ({ formData }) => {
    if (isUnchanged(correction, answer())) formData.set("correction", "");
  });
  reason.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) reason.blur(); // now single keys judge
  });
}

// A text area keeps only LF.
export function isUnchanged(field, answer) {
  return field.value === answer.replace(/\r\n?/g, "\n");
}
