"""One experiment from a recipe to a tracked, audited, reported run."""
