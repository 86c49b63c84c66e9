"""From a graph to what is predicted of it: propagation, blocks, correlation, uncertainty."""
