"""What the runs of one process share: fitted once for the same rows, and anew for others."""

from dataclasses import dataclass

from kt_forecast.experiment.station import Station


@dataclass(frozen=True)
class Named:
    name: str
    strength: int = 1

    def plain(self):
        return {"name": self.name, "strength": self.strength}


def test_baselines_are_fitted_once_for_the_same_rows_and_settings():
    station, asked = Station(), []

    def fit(beside):
        asked.extend(beside)
        return {one.name: object() for one in beside}

    weak, strong, other = Named("logistic"), Named("logistic", 2), Named("item_mean")
    first = station.fitted_beside([weak, other], "rows", fit)
    again = station.fitted_beside([other, weak], "rows", fit)
    assert list(again) == ["item_mean", "logistic"]
    assert all(again[name] is one for name, one in first.items())
    assert asked == [weak, other]
    station.fitted_beside([weak], "other rows", fit)
    station.fitted_beside([strong], "rows", fit)
    assert asked == [weak, other, weak, strong]
