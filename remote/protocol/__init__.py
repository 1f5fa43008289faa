"""What client and server agree on: messages, cutting, sealing, errors and the Service; no I/O."""
