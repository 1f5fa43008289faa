"""Search: an index for each space, made from its journal, and what is found in it."""
