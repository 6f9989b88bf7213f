"""How every metric is named and read, and a case in which it misleads."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is named and read.

    Attributes:
        label: heading of its column.
        higher: whether more is better; None where neither end is.
        reading: formula, range, unit, and a case in which it misleads.
    """

    label: str
    higher: bool | None
    reading: str = ""


TRACING: dict[str, Metric] = {
    "auc": Metric(
        label="AUC",
        higher=True,
        reading=(
            "Chance that a right answer got a higher probability than a wrong one, over all "
            "pairs of interactions; a half is guessing, one is perfect. Most pairs compare two "
            "students, so knowing who is strong earns much of it without any tracing."
        ),
    ),
    "auc_within_student": Metric(
        label="Within-student AUC",
        higher=True,
        reading=(
            "The same chance over pairs of one student's own answers: does the model know when "
            "this student will succeed? Students who are always right or always wrong have no "
            "pairs and do not count."
        ),
    ),
    "auc_within_concept": Metric(
        label="Within-concept AUC",
        higher=True,
        reading=(
            "The same chance over pairs of one concept, so that knowing which concepts are easy "
            "earns nothing. Concepts with few answers make it noisy."
        ),
    ),
    "accuracy": Metric(
        label="Accuracy",
        higher=True,
        reading=(
            "Share of answers on the side of a half that the probability is on. Where most "
            "answers are right, always saying right already scores well."
        ),
    ),
    "nll": Metric(
        label="Log loss",
        higher=False,
        reading=(
            "Mean of minus the natural logarithm of the probability given to what happened, in "
            "nats; nought is perfect. One confident error can outweigh many good predictions."
        ),
    ),
    "brier": Metric(
        label="Brier",
        higher=False,
        reading=(
            "Mean squared distance between probability and answer, from nought to one. Rare "
            "events hardly move it."
        ),
    ),
    "ece": Metric(
        label="Calibration error",
        higher=False,
        reading=(
            "Mean distance, over bins of like predictions weighted by count, between predicted "
            "and observed share right. Predicting the mean for everyone makes it nought."
        ),
    ),
    "rmse": Metric(
        label="RMSE",
        higher=False,
        reading="Square root of the Brier score; it misleads where Brier does.",
    ),
}
"""Metrics of predicted responses, in the order of the page."""

FORECASTING: dict[str, Metric] = {
    "mse": Metric(
        label="MSE",
        higher=False,
        reading=(
            "Mean squared error of standardised values, over all windows, series and steps; "
            "always saying the training mean costs about one where nothing drifts. Squares let a "
            "few bad stretches decide, and so does a series whose level or spread has grown since "
            "training."
        ),
    ),
    "mae": Metric(
        label="MAE",
        higher=False,
        reading=(
            "Mean absolute error of standardised values. The median earns it, so that a series of "
            "mostly noughts is best forecast by nought."
        ),
    ),
    "mase": Metric(
        label="MASE",
        higher=False,
        reading=(
            "Mean absolute error over what repeating the last season missed in the training rows "
            "of the same series. That scale is of one season ahead, so a long horizon exceeds one "
            "without being bad, and a series that hardly moved in training decides."
        ),
    ),
    "smape": Metric(
        label="sMAPE",
        higher=False,
        reading=(
            "Mean of the absolute error over the summed sizes of forecast and value, from nought "
            "to one; the M competitions print twice this, in percent. Near nought any miss counts "
            "as the largest, and units without a true nought, such as degrees, make it arbitrary."
        ),
    ),
    "wql": Metric(
        label="WQL",
        higher=False,
        reading=(
            "Weighted quantile loss: twice the pinball loss, in the series' own units, over the "
            "summed sizes of the values, mean over the quantiles. The series of the largest "
            "numbers decides, and other quantiles give other figures."
        ),
    ),
    "crps": Metric(
        label="CRPS",
        higher=False,
        reading=(
            "Continuous ranked probability score of standardised values, as twice the mean pinball "
            "loss of the predicted quantiles: how far the forecast distribution lies from what "
            "happened. Few quantiles do not see the tails."
        ),
    ),
    "rmse": Metric(
        label="RMSE",
        higher=False,
        reading="Square root of the MSE; it misleads where that does.",
    ),
    "mse_original": Metric(
        label="MSE, own unit",
        higher=False,
        reading=(
            "Mean squared error in the series' own units, squared. The series of the largest "
            "numbers decides, and unlike units are added up."
        ),
    ),
    "mae_original": Metric(
        label="MAE, own unit",
        higher=False,
        reading=(
            "Mean absolute error in the series' own units. The series of the largest numbers "
            "decides, and unlike units are added up."
        ),
    ),
    "rmse_original": Metric(
        label="RMSE, own unit",
        higher=False,
        reading="Square root of the MSE in the series' own units; it misleads where that does.",
    ),
}
"""Metrics of forecasts, in the order of the page."""

METRICS = FORECASTING | TRACING
"""Labels of either task; a reading is the task's own."""
