"""Scanning: content is shown to a virus scanner behind the commits; what it finds is given out no more."""
