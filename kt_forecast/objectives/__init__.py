"""One file, one pre-training objective; the folder is the registry."""
