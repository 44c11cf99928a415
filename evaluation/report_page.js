"use strict";
document.documentElement.classList.add("js");

// The slider: how much of the input lies over the result.
function cut(range) {
  range.parentElement.style.setProperty("--cut", `${range.value}%`);
  range.setAttribute("aria-valuetext", `${range.value} % input, ${100 - range.value} % result`);
}
document.addEventListener("input", (event) => {
  if (event.target.type === "range") cut(event.target);
});

document.addEventListener("DOMContentLoaded", () => {
  const list = document.getElementById("cards");
  const form = document.getElementById("controls");
  const { search, verdict, group, sort } = form.elements;
  const natural = new Intl.Collator("en", { numeric: true });
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const pictures = Array.from(list.querySelectorAll(".card"), (card) => {
    const name = card.querySelector("h3").textContent;
    return { card, name, plain: plain(name), ...card.dataset };
  });
  if (!pictures.length) return;

  const groups = [...new Set(pictures.map((picture) => picture.group))].sort(natural.compare);
  group.append(...groups.map((name) => new Option(name || "none", name)));
  group.parentElement.hidden = groups.length === 1 && !groups[0];

  // What is no number comes last, whichever way; pictures that are alike go by their names.
  const finite = (text) => (Number.isFinite(Number(text)) ? Number(text) : Infinity);
  const by = (key, way) => (a, b) => {
    const [x, y] = [finite(a[key]), finite(b[key])];
    if (x === y) return 0;
    return x === Infinity ? 1 : y === Infinity ? -1 : way * (x - y);
  };
  const orders = {
    name: () => 0,
    seed: (a, b) => natural.compare(a.seed, b.seed),
    l2: by("l2", 1),
    "-l2": by("l2", -1),
    seconds: by("seconds", 1),
    "-seconds": by("seconds", -1),
  };
  function show() {
    const order = orders[sort.value];
    const wanted = plain(search.value.trim());
    const fitting = pictures
      .filter((picture) => verdict.value === "all" || verdict.value === picture.verdict)
      .filter((picture) => group.selectedIndex < 1 || group.value === picture.group)
      .filter((picture) => picture.plain.includes(wanted))
      .sort((a, b) => order(a, b) || natural.compare(a.name, b.name));
    // The list leaves the page while it changes: with a thousand cards that saves seconds.
    const before = list.previousElementSibling;
    list.remove();
    list.replaceChildren(...fitting.map((picture) => picture.card));
    before.after(list);
    const by = sort.selectedOptions[0].textContent;
    const text = `${fitting.length} of ${pictures.length} shown, by ${by}`;
    document.getElementById("shown").textContent = text;
    document.getElementById("nothing").hidden = fitting.length > 0;
  }
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show(); // a browser that reloads a page keeps what was typed there
  for (const range of list.querySelectorAll("input")) cut(range);
});
