"""Tables of series in, checked series out."""

from kt_forecast.data.series.table import Frequency, SeriesTable

__all__ = ["Frequency", "SeriesTable"]
