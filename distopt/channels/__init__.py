"""How a value crosses the graph, one file each, found by file name."""
