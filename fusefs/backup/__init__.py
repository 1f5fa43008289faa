"""Backup: ordinary folders of this machine that are kept in the drive, one way."""
