"""Does a function from tables to features use what it could not have known?

The function is run on changed copies of a table: later rows left out or replaced, answers flipped,
other entities changed, rows in another order, test rows replaced. What it returns for rows that
must not move is compared. Needs numpy, and pandas or polars only where the table is theirs.
"""

from kt_forecast.audit.pipeline.contract import PipelineError, Rows, rows
from kt_forecast.audit.pipeline.probes import PROBES
from kt_forecast.audit.pipeline.reach import Reach
from kt_forecast.audit.pipeline.search import PipelineFinding, audit_pipeline, replay, rows_ahead

__all__ = [
    "PROBES",
    "PipelineError",
    "PipelineFinding",
    "Reach",
    "Rows",
    "audit_pipeline",
    "replay",
    "rows",
    "rows_ahead",
]
