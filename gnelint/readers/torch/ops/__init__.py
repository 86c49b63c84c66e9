"""How each traced torch operation becomes nodes of the vocabulary, by family."""
