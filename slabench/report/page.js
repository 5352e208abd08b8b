"use strict";
// Tables of many rows get a box that leaves the rows in which all of its words occur.
for (const box of document.querySelectorAll("main .scroll")) {
  const rows = [...box.querySelector("table").tBodies[0].rows];
  if (rows.length < 10) continue;
  const bar = document.createElement("div");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("span");
  bar.className = "filter";
  input.type = "search";
  input.autocomplete = "off";
  input.setAttribute("aria-label", `Filter rows: ${box.getAttribute("aria-label")}`);
  count.setAttribute("role", "status");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += !row.hidden;
    }
    count.textContent = words.length ? `${left} of ${rows.length} rows` : "";
  });
  label.append("Filter rows ", input);
  bar.append(label, count);
  box.before(bar);
}
// A link to a folded section opens it, and so does paper.
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target?.parentElement.querySelector(":scope > details.fold");
  if (fold) fold.open = true;
};
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
unfold();
