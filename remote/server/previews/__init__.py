"""Previews: what files look like, small: made behind the commits, kept sealed, and given to members."""
