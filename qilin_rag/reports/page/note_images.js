// The small images of a note, each a button that enlarges it.
// @ts-check
import { make } from "./dom.js";
import { say } from "./words.js";

/** @typedef {import("./types.js").NoteImage} NoteImage */

/**
 * The images of a note in a row, or why one is not shown.
 * @param {NoteImage[] | undefined} images
 * @param {string | number} note
 */
export function noteImages(images, note) {
  if (!images?.length) return null;
  return make("div", { class: "thumbs" }, images.map(({ src, why }, at) => {
    const label = say("Image {number} of {n} of note {note}", { number: at + 1, n: images.length, note });
    return src ? thumbnail(src, label) : absent(label, why ?? "");
  }));
}

/**
 * How many images went with a prompt, and why others did not.
 * @param {number | null | undefined} n
 * @param {Record<string, number> | undefined} leftOut
 */
export function imagesSent(n, leftOut) {
  const reasons = Object.entries(leftOut ?? {}).map(([why, count]) => `${count} ${say(why)}`).join(", ");
  return [
    n ? say("{n} images in the prompt", { n }) : "",
    reasons ? say("images left out: {reasons}", { reasons }) : "",
  ].filter(Boolean).join(", ");
}

/** @param {string} src @param {string} label */
function thumbnail(src, label) {
  const image = make("img", { src, alt: label, loading: "lazy", decoding: "async", error: () => button.replaceWith(absent(label, "")) });
  const button = make("button", { type: "button", class: "thumb", "aria-pressed": "false", title: label, click: () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  } }, image);
  return button;
}

/** @param {string} label @param {string} why */
const absent = (label, why) => make("small", { class: "absent text" },
  why ? say("{image}: not shown, {why}", { image: label, why: say(why) }) : say("{image}: not shown", { image: label }));
