"""The object store: immutable bytes by name; the interface, and the store in a local directory."""
