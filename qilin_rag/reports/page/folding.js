// Texts as they are compared: without what nobody sees, and with the forms of a letter as one.
// @ts-check

/**
 * What nobody sees of a text, as `text.visible` in Python leaves it out: all default-ignorable code points but joiners
 * between emoji and the tags of flags, and controls that are no white space.
 */
export const UNSEEN = [
  /(?![\u200d\u{e0020}-\u{e007f}])\p{Default_Ignorable_Code_Point}/gu,
  /[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u2800\ufff9-\ufffb]/gu,
  /(?<![\u2194\u2195\u2600-\u27bf\u2b00-\u2bff\u{1f300}-\u{1faff}])\u200d|\u200d(?![\u2194\u2195\u2600-\u27bf\u2b00-\u2bff\u{1f300}-\u{1faff}])/gu,
  /(?<!\u{1f3f4}[\u{e0020}-\u{e007e}]*)[\u{e0020}-\u{e007e}]|(?<!\u{1f3f4}[\u{e0020}-\u{e007e}]+)\u{e007f}|[\u{e0020}-\u{e007e}](?![\u{e0020}-\u{e007e}]*\u{e007f})/gu,
];

/** @param {string} text */
export const caseless = (text) => text.normalize("NFKC").toUpperCase().toLowerCase().normalize("NFKC");

/** As search compares: full-width and half-width, large and small letters are one, what is not seen is left out. @param {string} text */
export const folded = (text) => caseless(UNSEEN.reduce((rest, unseen) => rest.replace(unseen, ""), text));
