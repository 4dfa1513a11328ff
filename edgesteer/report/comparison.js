"use strict";
(() => {
  const readout = document.getElementById("readout");
  let here = null;

  function select(span) {
    if (!span) return;
    if (here) here.classList.remove("here");
    here = span;
    here.classList.add("here");
    const by = here.closest(".tokens").getAttribute("aria-label");
    const numbers = `trait ${here.dataset.t}, coherence ${here.dataset.c} (nats)`;
    readout.textContent = `${by}, "${here.textContent}": ${numbers}`;
  }

  const tokens = (box) => [...box.querySelectorAll("span[data-t]")];

  document.addEventListener("mouseover", (event) => select(event.target.closest("span[data-t]")));
  document.addEventListener("focusin", (event) => {
    const box = event.target.closest(".tokens");
    if (box && !box.contains(here)) select(tokens(box)[0]);
  });
  document.addEventListener("keydown", (event) => {
    const box = event.target.closest(".tokens");
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!box || (!step && event.key !== "Home" && event.key !== "End")) return;
    event.preventDefault();
    const all = tokens(box), last = all.length - 1;
    const next = all.indexOf(here) + step;
    select(all[event.key === "Home" ? 0 : event.key === "End" ? last : Math.max(0, Math.min(last, next))]);
  });
})();
