"""The records and protocols of both tasks, for what serves either."""

from kt_forecast.errors import InputError
from kt_forecast.report.forecasting import ForecastProtocol, ForecastRecord
from kt_forecast.report.record import FIRST_TASK, TASK, plain_of
from kt_forecast.report.tracing import Protocol, RunRecord

AnyProtocol = Protocol | ForecastProtocol
AnyRecord = RunRecord | ForecastRecord


def load_record(text: str, where: str = "the run record") -> AnyRecord:
    """Return the record of either task that its ``to_json`` wrote.

    Args:
        text: the JSON.
        where: the file, for the message.

    Raises:
        InputError: it is not JSON, is of an unknown task, was written by another version, or lacks
            a part.
    """
    plain = plain_of(text, where)
    task = plain.get(TASK, FIRST_TASK)
    for kind in (RunRecord, ForecastRecord):
        if task == kind.TASK:
            return kind.from_plain(plain, where)
    known = " and ".join(repr(kind.TASK) for kind in (RunRecord, ForecastRecord))
    raise InputError(f"{where}: a record of {task!r}; accepted are those of {known}")
