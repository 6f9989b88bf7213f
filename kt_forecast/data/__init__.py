"""Tables in, checked tables out; polars only, no tensors."""
