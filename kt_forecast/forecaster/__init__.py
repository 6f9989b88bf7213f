"""Train, forecast, look back, save: what both the Python call and the command use."""
