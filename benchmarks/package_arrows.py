"""The packages below qilin_rag, and which imports which: grimp's graph, drawn as text."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp

PACKAGE = "qilin_rag"


def arrows() -> dict[str, set[str]]:
    """By each package or module right below ours those that it imports; what it holds counts for it."""
    graph = grimp.build_graph(PACKAGE)
    children = sorted(graph.find_children(PACKAGE))
    for child in children:
        if graph.find_descendants(child):
            graph.squash_module(child)
    return {child: graph.find_modules_directly_imported_by(child) - {PACKAGE, child} for child in children}


def main() -> None:
    """Print a line for each, from the top; a cycle is an error (graphlib.CycleError)."""
    found = arrows()
    for module in reversed(list(TopologicalSorter(found).static_order())):
        names = ", ".join(sorted(each.rpartition(".")[2] for each in found[module]))
        print(f"{module.rpartition('.')[2]:12} -> {names}")
    print(f"{len(found)} packages and modules, {sum(map(len, found.values()))} arrows, no cycle")


if __name__ == "__main__":
    main()
