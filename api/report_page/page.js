"use strict";
// Rows by how they changed: a button a corner.
const buttons = document.querySelectorAll("button[data-corner]");
for (const button of buttons) {
  button.addEventListener("click", () => {
    const corner = button.dataset.corner;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    for (const row of document.querySelectorAll("details[data-corner]")) {
      row.hidden = corner !== "all" && row.dataset.corner !== corner;
    }
  });
}
