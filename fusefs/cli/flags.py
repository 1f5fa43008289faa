"""Flags: those that many commands have."""

import click

as_json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
yes_flag = click.option("--yes", is_flag=True, help="Do it without asking.")
