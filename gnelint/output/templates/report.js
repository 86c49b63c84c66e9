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

  // code to copy; where the browser keeps its clipboard shut the text is marked instead
  each("button.copy", (button) => {
    button.hidden = false;
    const code = button.parentElement.querySelector("code");
    button.addEventListener("click", async () => {
      getSelection().selectAllChildren(code);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Marked: press Ctrl+C";
      }
    });
  });

  // the chart as a file of its own: its drawings and words where they stand on the page, with the look they have there
  const LOOK = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "font-family"];
  const SVG = "http://www.w3.org/2000/svg";
  const dressed = (original) => {
    const copy = original.cloneNode(true);
    const copies = [copy, ...copy.querySelectorAll("*")];
    [original, ...original.querySelectorAll("*")].forEach((element, at) => {
      const style = getComputedStyle(element);
      LOOK.forEach((name) => copies[at].setAttribute(name, style.getPropertyValue(name)));
      if (style.vectorEffect !== "none") copies[at].setAttribute("vector-effect", style.vectorEffect);
    });
    return copy;
  };
  const drawn = (plots) => {
    const frame = plots.getBoundingClientRect();
    const svg = document.createElementNS(SVG, "svg");
    const put = (element, x, y, parts) => {
      Object.entries({ x, y, ...parts }).forEach(([name, value]) => element.setAttribute(name, value));
      svg.append(element);
    };
    svg.setAttribute("xmlns", SVG);
    svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    svg.setAttribute("width", frame.width);
    svg.setAttribute("height", frame.height);
    put(document.createElementNS(SVG, "rect"), 0, 0, {
      width: "100%", height: "100%", fill: getComputedStyle(plots).backgroundColor,
    });
    const marks = document.createElementNS(SVG, "defs");
    new Set([...plots.querySelectorAll("use")].map((use) => use.getAttribute("href"))).forEach((name) => {
      marks.append(dressed(document.querySelector(name)));
    });
    svg.append(marks);
    for (const child of plots.children) {
      const box = child.getBoundingClientRect();
      const [x, y] = [box.left - frame.left, box.top - frame.top];
      if (child.matches("svg:not(.hits)")) {
        put(dressed(child), x, y, { width: box.width, height: box.height, overflow: "visible" });
      } else if (child.matches("p")) {
        const style = getComputedStyle(child);
        const text = document.createElementNS(SVG, "text");
        const right = style.textAlign === "right";
        text.textContent = child.textContent;
        put(text, right ? x + box.width - parseFloat(style.paddingRight) : x, y + box.height * 0.75, {
          fill: style.color, "font-size": style.fontSize, "font-weight": style.fontWeight,
          "font-family": style.fontFamily, "text-anchor": right ? "end" : "start",
        });
      }
    }
    return new XMLSerializer().serializeToString(svg);
  };
  each("button.save", (button) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([drawn(button.closest("figure").querySelector(".plots"))], { type: "image/svg+xml" }));
      link.download = `${document.title.split(" ")[0].replace(/[^\w.-]+/g, "_") || "chart"}.svg`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  });
})();
