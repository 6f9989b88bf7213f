"""Checked tables to tensors: one student's interactions, batches without padding waste."""
