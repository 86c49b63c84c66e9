"""The network as data: graph, vocabulary of operations, and the one editor of graphs."""
