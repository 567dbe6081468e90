// Elements. Data enters the page here only, as text nodes and as values of harmless attributes.
const byId = (id) => document.getElementById(id);

/** Control characters as symbols: they say that they are there, and do nothing. */
const visible = (text) =>
  String(text).replace(/[\x00-\x08\x0b-\x1f\x7f]/g, (char) =>
    char === "\x7f" ? "\u2421" : String.fromCharCode(0x2400 + char.charCodeAt(0)));

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null) element.append(child instanceof Node ? child : visible(child));
  }
  return element;
}

const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Options of a select: pairs of value and label. */
function setOptions(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, label]) => make("option", { value }, label)));
  select.value = chosen;
}

/** A heading that sorts; `down` says how it is sorted by now, null where it is not. */
function sortHeading(label, down, onSort, attributes = {}) {
  const order = down === null ? "none" : down ? "descending" : "ascending";
  const arrow = down === null ? "" : down ? " ▼" : " ▲";
  return make("th", { scope: "col", "aria-sort": order, ...attributes },
    make("button", { type: "button", click: onSort }, label + arrow));
}

const collator = new Intl.Collator("zh", { numeric: true });

/** Order of two values; what is missing stands last, whichever way. */
function compare(one, other, down) {
  const missing = (value) => value === null || value === undefined;
  if (missing(one) || missing(other)) return missing(one) - missing(other);
  const difference = typeof one === "number" ? one - other : collator.compare(one, other);
  return down ? -difference : difference;
}
