"""What a person touches: the mounted folder and the commands."""
