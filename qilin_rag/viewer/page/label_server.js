// How the label page asks the server: a label that it can't take stays in the browser and is sent again.
// @ts-check
import { say } from "./words.js";

/**
 * @typedef {import("./label_types.js").Next} Next
 * @typedef {import("./label_types.js").Progress} Progress
 * @typedef {import("./label_types.js").Agreement} Agreement
 * @typedef {import("./label_types.js").SentLabel} SentLabel
 * @typedef {import("./label_types.js").Task} Task
 * @typedef {(text: string, isWrong?: boolean) => void} Tell
 */

const AGAIN_MS = 1500;

/** @param {Task} task @param {string} annotator */
const keyOf = (task, annotator) => `qilin-rag-label-${task.sha256.slice(0, 16)}-${annotator}`;

/** The label that could not be sent. @param {Task} task @param {string} annotator @returns {SentLabel | null} */
export const pending = (task, annotator) => JSON.parse(localStorage.getItem(keyOf(task, annotator)) ?? "null");

/** @param {Task} task @param {SentLabel} label */
export const remember = (task, label) => localStorage.setItem(keyOf(task, label.annotator), JSON.stringify(label));

/** @param {Task} task @param {string} annotator */
export const forget = (task, annotator) => localStorage.removeItem(keyOf(task, annotator));

const pause = () => new Promise((resolve) => { setTimeout(resolve, AGAIN_MS); });

/**
 * Ask once. The server's refusal is in `error`; `isLater` says that it may answer another time.
 * @param {string} path
 * @param {object} [body]
 * @returns {Promise<{ value: any, error: string | null, isLater: boolean }>}
 */
async function ask(path, body) {
  try {
    const reply = await fetch(path, body && { method: "POST", body: JSON.stringify(body) });
    if (reply.ok) return { value: await reply.json(), error: null, isLater: false };
    if (reply.status === 403) {
      return { value: null, error: say("the server was started again: open the new address that it printed"), isLater: true };
    }
    const told = (await reply.json()).error ?? reply.statusText;
    return { value: null, error: told, isLater: reply.status >= 500 };
  } catch {
    return { value: null, error: say("the server does not answer"), isLater: true };
  }
}

/** The next question of an annotator, once the server gives it; null if it refuses. @param {string} annotator @param {Tell} tell @returns {Promise<Next | null>} */
export async function load(annotator, tell) {
  for (;;) {
    const { value, error, isLater } = await ask(`/api/label/next?${new URLSearchParams({ annotator })}`);
    if (error === null) return value;
    if (!isLater) {
      tell(error, true);
      return null;
    }
    tell(say("The page can't be filled: {why}. It tries again.", { why: error }), true);
    await pause();
  }
}

/** Send a label until the server takes or refuses it; why it refused. @param {SentLabel} label @param {Tell} tell @returns {Promise<string | null>} */
export async function deliver(label, tell) {
  for (;;) {
    const { error, isLater } = await ask("/api/label", label);
    if (!isLater) return error;
    tell(say("Not saved yet: {why}. The label stays in this browser and is sent again.", { why: error ?? "" }), true);
    await pause();
  }
}

/** Withdraw a label; why it was not. @param {string} annotator @param {string} id @returns {Promise<string | null>} */
export const undo = async (annotator, id) => (await ask("/api/label/undo", { annotator, id })).error;

/** How far all annotators are; null if the server does not say. @param {string} annotator @returns {Promise<(Progress & { agreement: Agreement[] }) | null>} */
export const openProgress = async (annotator) => (await ask(`/api/label/progress?${new URLSearchParams({ annotator })}`)).value;
