"""The server: accounts, spaces with their journals, and the chunk store."""
