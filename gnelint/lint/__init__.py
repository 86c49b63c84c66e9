"""Rule files matched against a graph and its prediction: findings, and what is left out of them."""
