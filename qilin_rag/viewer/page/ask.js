// Ask the server of the view for data.
// @ts-check
import { say } from "./words.js";

/**
 * The answer to a request, or an error whose message is the server's own line.
 * @param {string} path
 * @param {URLSearchParams | Record<string, string>} [fields]
 * @returns {Promise<any>}
 */
export async function ask(path, fields = {}) {
  let reply;
  try {
    reply = await fetch(`${path}?${new URLSearchParams(fields)}`);
  } catch {
    throw new Error(say("The view has ended; start it again: qilin-rag view"));
  }
  const text = await reply.text();
  if (reply.ok) return JSON.parse(text);
  let line = text;
  try {
    line = JSON.parse(text).error;
  } catch {
    // a refusal is plain text
  }
  throw new Error(line);
}
