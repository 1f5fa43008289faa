"""The way to a server: the only package that speaks HTTP as a client."""
