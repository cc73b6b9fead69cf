// Elements whose words are text and never HTML, from wherever they come.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// A row for each { name, score }; a bar where all scores are between 0 and 1. titles: of the columns, [name, score].
export function bars(rows, titles) {
  const shares = rows.every(({ score }) => score >= 0 && score <= 1);
  const table = make("table", { class: "bars" });
  const head = titles.map((title) => make("th", { scope: "col" }, title));
  table.append(make("thead", {}, make("tr", {}, ...head, make("td"))));
  const body = table.appendChild(make("tbody"));
  for (const { name, score } of rows) {
    const bar = make("div", { class: "bar" });
    bar.style.width = `${100 * score}%`;
    const cells = [make("th", { scope: "row" }, name), make("td", {}, score.toFixed(4))];
    body.append(make("tr", {}, ...cells, make("td", { "aria-hidden": "true" }, ...(shares ? [bar] : []))));
  }
  return table;
}

// The text with spans { start, end, label, hue } marked. Python counts characters, and JavaScript half of some.
export function marked(text, spans) {
  const characters = Array.from(text);
  const shown = make("p", { class: "marked", lang: "zh" });
  let done = 0;
  for (const { start, end, label, hue } of [...spans].sort((one, other) => one.start - other.start)) {
    if (start < done) {
      continue; // it overlaps the one before
    }
    const mark = make("mark", {}, characters.slice(start, end).join(""));
    if (label) {
      mark.append(make("small", {}, label));
    }
    if (hue !== undefined) {
      mark.style.setProperty("--hue", hue);
    }
    shown.append(characters.slice(done, start).join(""), mark);
    done = end;
  }
  shown.append(characters.slice(done).join(""));
  return shown;
}
