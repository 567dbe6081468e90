// The report: a file of its own, with its index and its blocks inside.
// @ts-check
import { blocks } from "./blocks.js";
import { useIndex } from "./data.js";
import { byId } from "./dom.js";
import { startResults } from "./results.js";
import { useSource } from "./source.js";

useIndex(JSON.parse(byId("index").textContent ?? ""));
useSource(blocks);
startResults();
