// The report in the viewer: its index inside, the rest from the server.
// @ts-check
import { useIndex } from "./data.js";
import { byId } from "./dom.js";
import { startResults } from "./results.js";
import { served } from "./served.js";
import { useSource } from "./source.js";

useIndex(JSON.parse(byId("index").textContent ?? ""));
useSource(served);
startResults();
