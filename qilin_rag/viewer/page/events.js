// Listen to what changes in the runs. A page that nobody sees does not listen: a browser opens few connections.
// @ts-check

/** @typedef {import("./live_types.js").Changes} Changes */

/**
 * Call `onChanges` with all rows, then with those that change, as long as the page is open.
 * @param {Record<string, string>} fields
 * @param {(changes: Changes) => void} onChanges
 * @param {(isConnected: boolean) => void} onConnection
 */
export function listen(fields, onChanges, onConnection) {
  const address = `/api/events?${new URLSearchParams(fields)}`;
  /** @type {EventSource | null} */
  let source = null;

  function open() {
    source = new EventSource(address);
    source.addEventListener("message", (event) => {
      onConnection(true);
      onChanges(JSON.parse(event.data));
    });
    source.addEventListener("error", () => onConnection(false));
  }

  function close() {
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => {
    close();
    if (!document.hidden) open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => {
    if (event.persisted && source === null) open();
  });
  open();
}
