"""What this machine remembers of its spaces, and what carries it to and from the server."""
