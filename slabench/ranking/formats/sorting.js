"use strict";
// Every table.sortable: a heading's button sorts by its column, and the next click turns it round. th.num are numbers and begin with
// the largest, names with a; data-first="ascending" begins a heading otherwise. A cell sorts by data-sort, a name without it by its
// text; numbers without it and empty names stay last. Equal ones keep their order.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      const numeric = head.classList.contains("num");
      const first = head.dataset.first ?? (numeric ? "descending" : "ascending");
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (cell) => cell.dataset.sort ?? (numeric ? "" : cell.textContent);
      const rows = [...body.rows].map((row) => [value(row.cells[index]), row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
