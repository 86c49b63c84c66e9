"""From a graph to what is predicted of it: `propagation` has the whole of forward, backward, spectra and blocks."""
