"use strict";

// Tables: a click on a header, or Enter, sorts by its column; a second one turns the order round.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const place = [...head.parentElement.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => parseFloat(row.cells[place].dataset.value ?? (up ? Infinity : -Infinity));
    body.append(...[...body.rows].sort((a, b) => (up ? value(a) - value(b) : value(b) - value(a)) || 0));
  });
}
