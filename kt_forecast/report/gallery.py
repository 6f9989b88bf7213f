"""All figures of a run."""

from kt_forecast.report.ahead import ahead
from kt_forecast.report.charts import curves, panels
from kt_forecast.report.drawing import Picture
from kt_forecast.report.fans import fan_chart
from kt_forecast.report.heatmap import heat_map
from kt_forecast.report.kinds import AnyRecord
from kt_forecast.report.students import answers_seen, calibration
from kt_forecast.report.tracing import RunRecord


def pictures(record: AnyRecord) -> tuple[Picture, ...]:
    """Return every figure the record has the figures for, in the order of the page."""
    found = [*panels(record)]
    if isinstance(record, RunRecord):
        found += filter(None, (calibration(record), answers_seen(record)))
        found += curves(record)
        found += filter(None, [heat_map(record.mastery) if record.mastery else None])
    else:
        found += ahead(record)
        found += (fan_chart(record, place) for place in range(len(record.fans)))
        found += curves(record)
    return tuple(found)


def figures(record: AnyRecord) -> dict[str, bytes]:
    """Return the figures by name, each a whole SVG file."""
    return {picture.name: picture.svg for picture in pictures(record)}
