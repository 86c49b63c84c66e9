"""`.pt2` files read as data: torch's own loader unpickles and evaluates what is in them."""
