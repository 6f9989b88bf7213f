"""All figures of a run."""

from kt_forecast.report.charts import PANELS, answers_seen, calibration, curves, panel
from kt_forecast.report.drawing import Picture, finite
from kt_forecast.report.heatmap import heat_map
from kt_forecast.report.record import RunRecord


def pictures(record: RunRecord) -> tuple[Picture, ...]:
    """Return every figure the record has the figures for, in the order of the page."""
    found = [
        *(
            panel(record, place, name)
            for place, protocol in enumerate(record.protocols)
            for name in (PANELS if place == 0 else PANELS[:2])
            if finite(protocol.model.get(name))
        ),
        calibration(record),
        answers_seen(record),
        *curves(record),
        heat_map(record.mastery) if record.mastery else None,
    ]
    return tuple(picture for picture in found if picture is not None)


def figures(record: RunRecord) -> dict[str, bytes]:
    """Return the figures by name, each a whole SVG file."""
    return {picture.name: picture.svg for picture in pictures(record)}
