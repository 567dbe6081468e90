// What is looked at. Everybody may read it; it changes by setState alone.
// @ts-check

/** @typedef {import("./types.js").State} State */

/** @type {State} */
const kept = {
  t: 0, a: 0, b: null, metric: 0, boardSort: null, boardFilter: "",
  search: "", inAnswers: false, status: "", low: null, high: null, compare: "",
  sort: { key: "place", down: false }, page: 0, order: [], open: null, isFollowed: false,
};

export const state = /** @type {Readonly<State>} */ (kept);

/** @param {Partial<State>} part */
export function setState(part) {
  Object.assign(kept, part);
}

/** The chosen runs, A first. */
export const chosenRuns = () => [kept.a, kept.b].filter((run) => run !== null);
