"use strict";
// Sorts every table of class "sortable", filters the leaderboard, and moves through its cells with the arrow keys.
// Nothing here makes content: without this script the page shows all there is.
(() => {
  const value = (cell) => cell.dataset.value ?? cell.textContent.trim();

  /** Puts a table's rows in the order of one column; rows without a value come last, equal ones stay as they were. */
  function sort(table, column, direction) {
    const heads = [...table.tHead.rows[0].cells];
    const numeric = heads[column].dataset.sort === "number";
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [row, value(row.cells[column]), Number(row.dataset.order)]);
    const compare = numeric
      ? (a, b) => Number(a) - Number(b)
      : (a, b) => a.localeCompare(b, "en", { numeric: true, sensitivity: "base" });
    rows.sort(([, a, first], [, b, second]) => {
      if (a === "" || b === "") return (a === "") - (b === "") || first - second;
      return sign * compare(a, b) || first - second;
    });
    table.tBodies[0].append(...rows.map(([row]) => row));
    heads.forEach((head, i) => (i === column ? head.setAttribute("aria-sort", direction) : head.removeAttribute("aria-sort")));
  }

  /** The direction with which a column starts: the better values, or A, first. */
  const first = (head) => (head.dataset.better === "higher" ? "descending" : "ascending");

  function makeSortable(table, sorted) {
    [...table.tBodies[0].rows].forEach((row, i) => (row.dataset.order = i));
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const other = now === "ascending" ? "descending" : "ascending";
        sort(table, column, now ? other : first(head));
        sorted();
      });
    });
  }

  function leaderboard(table, form) {
    const rows = [...table.tBodies[0].rows];
    const heads = [...table.tHead.rows[0].cells];
    const output = form.querySelector("output");
    const fields = ["dataset", "model", "metric", "status", "find"];

    /** Shows the rows and columns that the form asks for, and says how many and in which order. */
    function show() {
      const { dataset, model, metric, status, find } = Object.fromEntries(fields.map((name) => [name, form.elements[name].value]));
      const words = find.trim().toLowerCase();
      for (const cell of table.querySelectorAll("[data-metric]")) {
        if (cell.tagName !== "BUTTON") cell.hidden = Boolean(metric) && cell.dataset.metric !== metric;
      }
      for (const row of rows) {
        const cells = [...row.querySelectorAll("td[data-metric]")].filter((cell) => !cell.hidden);
        const has = (cell) => cell.dataset.states && (!status || cell.dataset.states.split(" ").includes(status));
        for (const cell of cells) cell.classList.toggle("beside", Boolean(status) && !has(cell));
        row.hidden =
          (dataset && row.dataset.dataset !== dataset) ||
          (model && row.dataset.model !== model) ||
          (words && !row.dataset.find.includes(words)) ||
          !cells.some(has);
      }
      tell();
      remember();
      rove();
    }

    function tell() {
      const shown = rows.filter((row) => !row.hidden).length;
      const sorted = heads.find((head) => head.hasAttribute("aria-sort"));
      const order = sorted ? `, by ${sorted.textContent.trim()}, ${sorted.getAttribute("aria-sort")}` : "";
      output.textContent = `${shown} of ${rows.length} lines${order}`;
    }

    /** Keeps the choice in the address, so that it can be passed on. */
    function remember() {
      const chosen = new URLSearchParams();
      for (const name of fields) if (form.elements[name].value) chosen.set(name, form.elements[name].value);
      const sorted = heads.find((head) => head.hasAttribute("aria-sort"));
      if (sorted) chosen.set("sort", `${sorted.textContent.trim()} ${sorted.getAttribute("aria-sort")}`);
      const hash = String(chosen) ? `#board?${chosen}` : location.hash.startsWith("#board?") ? "#board" : location.hash;
      if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
    }

    function recall() {
      if (!location.hash.startsWith("#board?")) return;
      const chosen = new URLSearchParams(location.hash.slice("#board?".length));
      for (const name of fields) form.elements[name].value = chosen.get(name) ?? "";
      const [, name, direction] = /^(.*) (ascending|descending)$/.exec(chosen.get("sort") ?? "") ?? [];
      const column = heads.findIndex((head) => head.dataset.sort && head.textContent.trim() === name);
      if (column >= 0) sort(table, column, direction);
      show();
      document.getElementById("board").scrollIntoView();
    }

    /** The cells' buttons are one stop of the Tab key: the arrow keys lead from one to the next. */
    const buttons = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) =>
      [...row.cells].filter((cell) => !cell.hidden).map((cell) => cell.querySelector("button")));
    function rove(target) {
      const all = buttons().flat().filter(Boolean);
      const kept = target ?? all.find((button) => button.tabIndex === 0) ?? all[0];
      for (const button of table.tBodies[0].querySelectorAll("button")) button.tabIndex = button === kept ? 0 : -1;
    }
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    table.addEventListener("keydown", (event) => {
      if (!(event.key in steps) || !event.target.matches("tbody button")) return;
      event.preventDefault();
      const grid = buttons();
      let row = grid.findIndex((line) => line.includes(event.target));
      let column = grid[row].indexOf(event.target);
      const [down, right] = steps[event.key];
      do {
        row += down;
        column += right;
      } while (grid[row] && column >= 0 && column < grid[row].length && !grid[row][column]);
      const next = grid[row]?.[column];
      if (next) {
        rove(next);
        next.focus();
      }
    });

    form.addEventListener("submit", (event) => event.preventDefault());
    function chosen(event) {
      const column = heads.findIndex((head) => head.dataset.metric && head.dataset.metric === form.elements.metric.value);
      if (event.target.name === "metric" && column >= 0) sort(table, column, first(heads[column]));
      show();
    }
    form.addEventListener("input", chosen);
    form.addEventListener("change", chosen);
    form.addEventListener("reset", () => setTimeout(() => {
      const order = (row) => Number(row.dataset.order);
      table.tBodies[0].append(...rows.sort((a, b) => order(a) - order(b)));
      heads.forEach((head) => head.removeAttribute("aria-sort"));
      show();
    }));
    addEventListener("hashchange", recall);
    makeSortable(table, show);
    form.hidden = false;
    if (location.hash.startsWith("#board?")) recall();
    else show();  // which would forget the choice in the address

    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-filter]");
      if (link) {
        form.reset();
        form.elements.find.value = link.dataset.filter;
        show();
      }
      if (event.target.closest(".why a")) event.target.closest(".why").hidePopover();
      const opener = event.target.closest("tbody button[popovertarget]");
      if (opener) {
        for (const row of document.querySelectorAll(`#${opener.getAttribute("popovertarget")} tr[data-metric]`)) {
          row.classList.toggle("asked", row.dataset.metric === opener.dataset.metric);
        }
      }
    });
  }

  const table = document.getElementById("lines");
  const form = document.getElementById("filters");
  for (const other of document.querySelectorAll("table.sortable")) if (other !== table) makeSortable(other, () => {});
  if (table && form) leaderboard(table, form);
})();
