"""The other end of the wire (server), the way to it (client), and the words between (protocol)."""
