// The words of the pages in English and Chinese: the English is in the code, and is the key of the Chinese.
// @ts-check
import { CHINESE } from "./chinese.js";

/** @typedef {"en" | "zh"} Language */

const REMEMBERED = "qilin-rag-language";
const chinese = new Map(Object.entries(CHINESE));

/** The language from the address, else the one chosen before, else the browser's. */
const language = chosenLanguage();

/** @returns {Language} */
function chosenLanguage() {
  const asked = new URLSearchParams(location.search).get("lang") ?? remembered() ?? navigator.language;
  return asked.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** Storage is refused to some files that are opened from disk. */
function remembered() {
  try {
    return localStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}

/**
 * A text in the language of the page, with values for its {names}.
 * @param {string} english
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function say(english, values = {}) {
  const text = language === "zh" ? (chinese.get(english) ?? english) : english;
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/**
 * Add the Chinese of more texts: a page beside the report has words of its own.
 * @param {Record<string, string>} words
 */
export function addChinese(words) {
  for (const [english, text] of Object.entries(words)) chinese.set(english, text);
}

/**
 * Say what stands in the page itself: the texts of elements with data-say, and their attributes that it names.
 * @param {ParentNode} root
 */
export function sayStatic(root) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of root.querySelectorAll("[data-say]")) {
    for (const node of element.childNodes) {
      const text = node.nodeType === Node.TEXT_NODE ? (node.nodeValue ?? "").trim() : "";
      if (/\p{L}/u.test(text)) node.nodeValue = (node.nodeValue ?? "").replace(text, () => say(text));
    }
    for (const name of (element.getAttribute("data-say") ?? "").split(" ").filter(Boolean)) {
      element.setAttribute(name, say(element.getAttribute(name) ?? ""));
    }
  }
}

/**
 * Let a button change to the other language: it is remembered, and the page is loaded anew.
 * @param {HTMLElement} button
 */
export function switchBy(button) {
  button.textContent = language === "zh" ? "English" : "中文";
  button.lang = language === "zh" ? "en" : "zh-CN";
  button.addEventListener("click", () => {
    const other = language === "zh" ? "en" : "zh";
    try {
      localStorage.setItem(REMEMBERED, other);
    } catch {
      // the address says it as well
    }
    const fields = new URLSearchParams(location.search);
    fields.set("lang", other);
    location.search = String(fields);
  });
}
