"use strict";
(() => {
  const each = (selector, act, root = document) => root.querySelectorAll(selector).forEach(act);

  // a link into something folded opens it
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView({ block: "start" });
  };
  addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.getAttribute("href") === location.hash) reveal();
  });
  if (location.hash) reveal();

  // what is pointed at says its numbers; the browser's own hint, which comes late, is put aside
  const tip = document.getElementById("tip");
  const say = (link, x, y) => {
    const title = link.querySelector("title");
    if (title) {
      link.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    const [name, ...lines] = link.getAttribute("aria-label").split("\n");
    const strong = document.createElement("strong");
    strong.textContent = name;
    tip.replaceChildren(strong, ...lines.map((line) => {
      const row = document.createElement("div");
      row.textContent = line;
      return row;
    }));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - width - 8)) + "px";
    tip.style.top = (y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18) + "px";
  };
  each(".hits", (hits) => {
    const at = (event) => event.target.closest("a");
    hits.addEventListener("pointermove", (event) => at(event) && say(at(event), event.clientX, event.clientY));
    hits.addEventListener("pointerleave", () => { tip.hidden = true; });
    hits.addEventListener("focusin", (event) => {
      const box = at(event).getBoundingClientRect();
      say(at(event), box.left + box.width / 2, box.top + 20);
    });
    hits.addEventListener("focusout", () => { tip.hidden = true; });
    hits.addEventListener("keydown", (event) => {
      const links = [...hits.querySelectorAll("a")];
      const here = links.indexOf(at(event));
      const next = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: links.length - 1 }[event.key];
      if (next === undefined || !links[next]) return;
      event.preventDefault();
      links[here].setAttribute("tabindex", "-1");
      links[next].removeAttribute("tabindex");
      links[next].focus();
    });
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // the table of layers: sorted by its headings, filtered by the form above it
  const CHUNK = 100;
  each("table.layers", (table) => {
    const rows = [...table.querySelectorAll("tbody tr")];
    const text = rows.map((row) => row.cells[1].textContent.toLowerCase());
    const bodies = [...table.tBodies];
    const form = table.closest("section").querySelector("form.filter");
    const order = rows.map((_, index) => index);
    let shown = rows.map(() => true);

    const lay = () => {
      const visible = order.filter((index) => shown[index]);
      bodies.forEach((body, at) => {
        const part = visible.slice(at * CHUNK, (at + 1) * CHUNK).map((index) => rows[index]);
        body.replaceChildren(...part);
        body.hidden = !part.length;
        body.classList.toggle("last", part.length > 0 && part.length < CHUNK);
      });
      form.querySelector("output").textContent =
        visible.length === rows.length ? `${rows.length} layers` : `${visible.length} of ${rows.length} layers`;
    };

    const value = (index, column) => {
      const shown = rows[index].cells[column].textContent.trim().replaceAll("−", "-");
      return shown === "-∞" ? -Infinity : shown;
    };
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        each("th[aria-sort]", (other) => other.removeAttribute("aria-sort"), table);
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const numeric = column === 0 || head.classList.contains("n");
        const keys = rows.map((_, index) => {
          const found = value(index, column);
          return found === "" ? null : numeric ? Number(found) : found;
        });
        order.sort((a, b) => {
          const [x, y] = [keys[a], keys[b]];
          if (x === null || y === null) return (x === null) - (y === null) || a - b;
          const less = numeric ? x - y : x.localeCompare(y, "en", { numeric: true });
          return (down ? -less : less) || a - b;
        });
        lay();
      });
    });

    const filter = () => {
      const wanted = form.elements.text.value.trim().toLowerCase();
      const op = form.elements.op.value;
      const off = form.elements.off.checked;
      shown = rows.map((row, index) =>
        text[index].includes(wanted) && (!op || row.cells[2].textContent === op) && (!off || row.classList.contains("off")));
      lay();
    };
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
  });
})();
