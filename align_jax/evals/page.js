"use strict";
// What hover, focus and tap add to the page. Texts are only ever set as text.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  document.body.append(tip);

  const make = (tag, name, text) => {
    const made = document.createElement(tag);
    made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const hide = () => { tip.hidden = true; };
  const show = (box, ...parts) => { // beside a box of the window, inside the window
    tip.replaceChildren(...parts);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const [wide, high] = [document.documentElement.clientWidth, window.innerHeight];
    const left = box.right + 12 + width < wide ? box.right + 12 : box.left - 12 - width;
    const top = box.bottom + 12 + height < high ? box.bottom + 12 : box.top - 12 - height;
    tip.style.left = `${window.scrollX + Math.min(Math.max(8, left), Math.max(8, wide - width - 8))}px`;
    tip.style.top = `${window.scrollY + Math.max(8, top)}px`;
  };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("pointerdown", hide, true); // before what was tapped shows its own

  const map = (svg) => {
    const groups = [...svg.querySelectorAll("g")];
    const marks = groups.flatMap((group) => [...group.children].map((path) => {
      const title = path.firstElementChild;
      title.remove(); // the browser would show it too
      const [x, y] = path.getAttribute("d").slice(1).split(/[ h]/).map(Number);
      return { x, y, group, text: title.textContent, thumbnail: path.dataset.t };
    }));
    const ring = document.createElementNS(svg.namespaceURI, "circle");
    ring.setAttribute("class", "ring");
    ring.setAttribute("visibility", "hidden");
    svg.append(ring);
    let current;

    const alive = () => marks.filter((mark) => !mark.group.classList.contains("faded"));
    const scale = () => svg.viewBox.baseVal.width / svg.getBoundingClientRect().width;
    const leave = () => { hide(); ring.setAttribute("visibility", "hidden"); };
    const choose = (mark) => {
      current = mark;
      ring.setAttribute("cx", mark.x);
      ring.setAttribute("cy", mark.y);
      ring.setAttribute("r", 8 * scale());
      ring.setAttribute("visibility", "visible");
      const words = make("span", "of");
      words.append(make("span", "text", mark.text), make("small", "", mark.group.dataset.kind));
      words.firstChild.dir = "auto";
      const parts = mark.thumbnail === undefined ? [words] : [make("span", `thumb t${mark.thumbnail}`), words];
      show(ring.getBoundingClientRect(), ...parts);
    };
    const nearest = (from, x, y) => {
      let [best, least] = [undefined, Infinity];
      for (const mark of from) {
        const distance = (mark.x - x) ** 2 + (mark.y - y) ** 2;
        if (distance < least) [best, least] = [mark, distance];
      }
      return [best, Math.sqrt(least)];
    };
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) * scale(), (event.clientY - box.top) * scale()];
      const [mark, distance] = nearest(alive(), x, y);
      if (mark && distance < 24 * scale()) choose(mark); else leave();
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
    document.addEventListener("pointerdown", leave, true);

    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    svg.addEventListener("keydown", (event) => {
      const way = ways[event.key];
      if (!way || !current) return;
      event.preventDefault();
      const ahead = alive().filter((mark) => { // within 45 degrees of the way
        const [x, y] = [mark.x - current.x, mark.y - current.y];
        const [along, across] = way[0] ? [x * way[0], y] : [y * way[1], x];
        return along > 0 && along >= Math.abs(across);
      });
      const [mark] = nearest(ahead, current.x, current.y);
      if (mark) choose(mark);
    });
    svg.addEventListener("focus", () => {
      if (!svg.matches(":focus-visible")) return;
      const { width, height } = svg.viewBox.baseVal;
      const [mark] = current && alive().includes(current) ? [current] : nearest(alive(), width / 2, height / 2);
      if (mark) choose(mark);
    });
    svg.addEventListener("blur", leave);
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("role", "application"); // so that arrow keys reach it

    const buttons = [...svg.parentNode.querySelectorAll("button")];
    buttons.forEach((button, index) => {
      button.disabled = false;
      button.addEventListener("click", () => { // one kind alone, or all again
        const alone = button.getAttribute("aria-pressed") === "false";
        buttons.forEach((other) => other.setAttribute("aria-pressed", String(alone && other === button)));
        groups.forEach((group, at) => group.classList.toggle("faded", alone && at !== index));
        leave();
      });
    });
  };

  const heat = (table) => {
    const heads = table.tHead.rows[0].cells;
    const side = (word, head) => {
      const made = make("span", "of");
      made.append(make("small", "", word), ...[...head.childNodes].map((node) => node.cloneNode(true)));
      return made;
    };
    const over = (event) => {
      const cell = event.target.closest(".cell");
      if (!cell) return hide();
      const value = make("strong", "", cell.textContent || "0");
      const row = side(table.dataset.row, cell.parentNode.cells[0]);
      show(cell.getBoundingClientRect(), row, side(table.dataset.column, heads[cell.cellIndex]), value);
    };
    table.addEventListener("pointerover", over);
    table.addEventListener("pointerdown", over);
    table.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  };

  document.querySelectorAll("svg.points").forEach(map);
  document.querySelectorAll("table.heat").forEach(heat);
})();
