"""The command ``kt-forecast``: parses, calls, prints; nothing else parses arguments."""

from importlib import import_module

from kt_forecast.cli.app import app, main

__all__ = ["app", "main"]

# One file a group of commands, in the order of --help.
for _group in ("work", "audit", "runs", "zoo", "data", "study", "tune", "serve", "export"):
    import_module(f"kt_forecast.cli.{_group}")
