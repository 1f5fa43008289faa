"""Jobs: what follows the journals beside a server that runs, never in front of a commit."""
