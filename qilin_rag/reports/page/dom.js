// Elements. Data enters the page here only, as text nodes and as values of harmless attributes.
// @ts-check

/**
 * @typedef {import("./types.js").Child} Child
 * @typedef {import("./types.js").Attributes} Attributes
 */

/** @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element ${id}`);
  return found;
}

/** @param {string} id */
export const selectById = (id) => /** @type {HTMLSelectElement} */ (byId(id));
/** @param {string} id */
export const inputById = (id) => /** @type {HTMLInputElement} */ (byId(id));
/** @param {string} id */
export const buttonById = (id) => /** @type {HTMLButtonElement} */ (byId(id));
/** @param {string} id */
export const dialogById = (id) => /** @type {HTMLDialogElement} */ (byId(id));

/**
 * Control characters as symbols: they say that they are there, and do nothing.
 * @param {string | number} text
 */
export const visible = (text) =>
  String(text).replace(/[\x00-\x08\x0b-\x1f\x7f]/g, (char) =>
    char === "\x7f" ? "\u2421" : String.fromCharCode(0x2400 + char.charCodeAt(0)));

/** @param {Element} element @param {Child[]} children */
function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(visible(child));
  }
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Attributes} attributes
 * @param {Child[]} children
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/**
 * Make an element; an attribute whose value is a function listens to the event of its name.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes]
 * @param {Child[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/**
 * Make an element of a drawing.
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes]
 * @param {Child[]} children
 * @returns {SVGElementTagNameMap[T]}
 */
export const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/**
 * Options of a select: pairs of value and label.
 * @param {HTMLSelectElement} select
 * @param {[value: string, label: string][]} pairs
 * @param {string} [chosen]
 */
export function setOptions(select, pairs, chosen = "") {
  select.replaceChildren(...pairs.map(([value, label]) => make("option", { value }, label)));
  select.value = chosen;
}

/**
 * A heading that sorts; `down` says how it is sorted by now, null if it is not.
 * @param {string} label
 * @param {boolean | null} down
 * @param {() => void} onSort
 * @param {Attributes} [attributes]
 */
export function sortHeading(label, down, onSort, attributes = {}) {
  const order = down === null ? "none" : down ? "descending" : "ascending";
  const arrow = down === null ? "" : down ? " ▼" : " ▲";
  return make("th", { scope: "col", "aria-sort": order, ...attributes },
    make("button", { type: "button", click: onSort }, label + arrow));
}

const collator = new Intl.Collator("zh", { numeric: true });

/**
 * Order of two values; what is missing stands last, whichever way.
 * @param {string | number | null | undefined} one
 * @param {string | number | null | undefined} other
 * @param {boolean} down
 * @returns {number}
 */
export function compare(one, other, down) {
  if (one === null || one === undefined || other === null || other === undefined) {
    return Number(one === null || one === undefined) - Number(other === null || other === undefined);
  }
  const difference = typeof one === "number" && typeof other === "number" ? one - other : collator.compare(String(one), String(other));
  return down ? -difference : difference;
}
