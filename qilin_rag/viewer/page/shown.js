// How state, progress, times and costs of a run are shown, in the list and on its page.
// @ts-check
import { make } from "./dom.js";
import { say } from "./words.js";

/**
 * @typedef {import("./live_types.js").Cost} Cost
 * @typedef {import("./live_types.js").Row} Row
 * @typedef {import("./live_types.js").Tokens} Tokens
 */

const WHY = {
  running: "a process is writing it",
  interrupted: "stopped or killed; the command that began it resumes it",
  complete: "",
  unreadable: "",
};

/** @param {Row} row */
export const stateBadge = (row) =>
  make("span", { class: `badge state ${row.state}`, title: WHY[row.state] && say(WHY[row.state]) }, say(row.state));

/** A bar whose parts are the outcomes of questions. @param {Row} row */
export function progressBar(row) {
  const isKnown = row.total > 0;
  const bar = make("div", {
    class: `meter ${row.state}`, role: "progressbar", "aria-label": say("Progress"),
    "aria-valuemin": 0, "aria-valuemax": row.total, "aria-valuenow": isKnown ? row.done : null,
  });
  for (const [status, n] of Object.entries(row.statuses)) {
    const part = make("span", { class: `part ${status}`, title: `${n} ${say(status)}` });
    part.style.width = `${(100 * n) / Math.max(row.total, row.done)}%`;
    bar.append(part);
  }
  if (isKnown && Object.keys(row.statuses).length === 0) {
    const part = make("span", { class: "part ok" });
    part.style.width = `${(100 * row.done) / row.total}%`;
    bar.append(part);
  }
  return bar;
}

/** @param {Row} row */
export function doneText(row) {
  if (row.total === 0) return "";
  const done = row.done < row.total ? say("{n} of {all}", { n: count(row.done), all: count(row.total) }) : count(row.total);
  return row.is_read ? done : `${done} …`;
}

/** The outcomes other than ok: "3 failed, 2 truncated". @param {Row} row */
export const outcomesText = (row) =>
  Object.entries(row.statuses).filter(([status]) => status !== "ok")
    .map(([status, n]) => `${count(n)} ${say(status)}`).join(", ");

/** @param {Row} row */
export const rateText = (row) => (row.rate === null ? "" : say("{rate}/min", { rate: row.rate < 10 ? row.rate.toFixed(1) : count(Math.round(row.rate)) }));

/** @param {Row} row */
export const leftText = (row) => (row.left_s === null ? "" : secondsText(row.left_s));

/** @param {number} seconds */
export function secondsText(seconds) {
  if (seconds < 59.95) return say("{n} s", { n: seconds < 10 && !Number.isInteger(seconds) ? seconds.toFixed(1) : Math.round(seconds) });
  const whole = Math.round(seconds);
  if (whole < 3600) return say("{m} min {s} s", { m: Math.floor(whole / 60), s: whole % 60 });
  const minutes = Math.floor(whole / 60);
  if (minutes < 1440) return say("{h} h {m} min", { h: Math.floor(minutes / 60), m: minutes % 60 });
  return say("{d} d {h} h", { d: Math.floor(minutes / 1440), h: Math.floor((minutes % 1440) / 60) });
}

/** @param {Cost | null} cost */
export function costText(cost) {
  if (cost === null) return "";
  if (cost.amount === null) return say("unknown");
  const amount = `${amountText(cost.amount)}${cost.currency ? ` ${cost.currency}` : ""}`;
  return cost.at_most ? say("at most {amount}", { amount }) : amount;
}

/** Two decimals, or three digits if it is below 1. @param {number} amount */
function amountText(amount) {
  const decimals = amount > 0 && amount < 1 ? 2 - Math.floor(Math.log10(amount)) : 2;
  return amount === 0 ? "0" : amount.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** @param {Tokens | null | undefined} usage */
export function tokensText(usage) {
  if (!usage || (usage.prompt_tokens === null && usage.completion_tokens === null)) return "";
  const [prompt, completion] = [usage.prompt_tokens, usage.completion_tokens].map((n) => (n === null ? say("unknown") : count(n)));
  return say("{prompt} prompt + {completion} completion", { prompt, completion });
}

/** @param {number} n */
export const count = (n) => n.toLocaleString("en");

/** A time of the server in the reader's zone. @param {string | null} time */
export function timeText(time) {
  if (time === null) return "";
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return time;
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** @param {number} n */
export function bytesText(n) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let at = 0;
  for (; n >= 1000 && at < units.length - 1; at += 1) n /= 1000;
  return `${at === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[at]}`;
}
