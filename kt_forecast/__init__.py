"""kt_forecast: knowledge tracing, forecasting, and an auditor for information from the future."""
