"""The only place that knows which information is legal when."""
