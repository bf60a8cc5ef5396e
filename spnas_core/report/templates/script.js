"use strict";
// Filters, the trial under the pointer, and tables that sort. Without it the page shows everything, and links lead on.
const all = (query, root = document) => [...root.querySelectorAll(query)];
const form = document.querySelector("form.filter");
const detail = document.getElementById("detail");

function filter() {
  const { stage, round, state } = Object.fromEntries(new FormData(form));
  const fits = (one) =>
    (!stage || one.dataset.stage === stage) && (!round || one.dataset.round === round) && (!state || one.dataset.state === state);
  all("[data-trial]").forEach((one) => one.classList.toggle("out", !fits(one)));
  const rows = all("#trials [data-trial]");
  form.querySelector("output").textContent = `${rows.filter(fits).length} of ${rows.length} trials`;
}

function show(dot) {
  all(".dot.chosen").forEach((one) => one.classList.remove("chosen"));
  dot.classList.add("chosen");
  const clone = document.getElementById(`trial-${dot.dataset.trial}`).cloneNode(true);
  const box = document.createElement("div");
  box.className = "clone";
  box.append(...clone.childNodes);
  detail.replaceChildren(box);
}

function sort(button) {
  const head = button.closest("th");
  const body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") !== "descending";
  const key = (row) => {
    const cell = row.cells[head.cellIndex];
    const data = cell.querySelector("data");
    return data ? Number(data.value) : head.classList.contains("n") ? -Infinity : cell.textContent.trim();
  };
  const order = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
  const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b)));
  all("th", head.parentElement).forEach((one) => one.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
}

if (form) {
  form.addEventListener("input", filter);
  form.querySelector("button").addEventListener("click", () => {
    form.reset();
    filter();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = detail.hidden = false;
  filter();
}
all(".dot[data-trial]").forEach((dot) => {
  dot.addEventListener("pointerenter", () => show(dot));
  dot.addEventListener("focus", () => show(dot));
  dot.addEventListener("click", (event) => {
    event.preventDefault();
    show(dot);
  });
});
all("th button").forEach((button) => button.addEventListener("click", () => sort(button)));
