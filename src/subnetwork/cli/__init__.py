"""The command `subnetwork`: one subcommand is one function; the exit status is the verdict."""

from subnetwork.cli.app import main

__all__ = ["main"]
