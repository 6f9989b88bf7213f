"""Names for leaks whose evidence is telling, and what repairs each."""

from dataclasses import dataclass

TEMPORAL = "temporal leakage"
BOTH = "preprocessing on training and test rows"
SELECTION = "feature selection on training and test rows"
DUPLICATES = "duplicates in training and test rows"
ILLEGITIMATE = "illegitimate feature"
DEPENDENCE = "training and test rows depend on each other"
"""Types of leakage of Kapoor and Narayanan, Patterns 2023."""


@dataclass(frozen=True)
class Repair:
    """A kind of leak, in the words of Kapoor and Narayanan, and what to do about it."""

    type: str
    sentence: str


REPAIRS = {
    "lead": Repair(
        TEMPORAL,
        "it reads only later rows, as shift by a negative number does: shift by a positive number "
        "inside each group (groupby or over), after sorting by time",
    ),
    "window reaching ahead": Repair(
        TEMPORAL,
        "it reads rows on both sides, as a centred window does: let windows end at the row "
        "(center=False), and shift by one where the row itself is not known yet",
    ),
    "label of a bin": Repair(
        TEMPORAL,
        "several rows read up to the same later row, as a bin labelled by its start does: label "
        "bins by their end (label='right', closed='left') or join only bins that are over",
    ),
    "backward fill": Repair(
        TEMPORAL,
        "missing values are taken from later rows: fill forward inside each group, or keep them "
        "missing with a flag",
    ),
    "interpolation": Repair(
        TEMPORAL,
        "missing values are drawn between earlier and later rows: fill forward inside each group",
    ),
    "statistic of an entity": Repair(
        TEMPORAL,
        "it is computed over all rows of its entity, earlier and later: use an expanding window "
        "shifted by one inside each group, or fit it on training rows",
    ),
    "statistic of the table": Repair(
        BOTH,
        "it is computed over all rows of the table: fit it on training rows only, or let it expand "
        "in time",
    ),
    "ranks or quantiles": Repair(
        BOTH,
        "only the order of values counts, over all rows: take ranks among earlier rows, or bin "
        "edges from training rows",
    ),
    "reversed recursion": Repair(
        TEMPORAL,
        "it reads every later row and no earlier one, as a recursion on reversed rows does: run it "
        "forwards, shifted by one",
    ),
    "target encoding": Repair(
        BOTH,
        "it averages the target over rows that include the row itself and later ones: encode from "
        "earlier rows (cumulative sums shifted by one) or out of fold on training rows",
    ),
    "codes or frequencies": Repair(
        BOTH,
        "codes or counts of categories come from all rows: build the vocabulary from training "
        "rows, with a code for what is unseen",
    ),
    "number of rows": Repair(
        TEMPORAL,
        "it moves when later rows exist, whatever they hold, as totals, lengths and relative "
        "positions do: count the rows so far (cumcount) instead",
    ),
    "times of later rows": Repair(
        TEMPORAL,
        "it reads when later rows happen: measure time since the previous row, not to the next",
    ),
    "forward join": Repair(
        TEMPORAL,
        "a table beside is joined from the future: join backwards "
        "(direction='backward', strategy='backward') on the moment a value was known",
    ),
    "own answer": Repair(
        ILLEGITIMATE,
        "a row's feature holds its own answer, or one given at the same moment: shift by one event "
        "inside each group before aggregating",
    ),
    "post-answer field": Repair(
        ILLEGITIMATE,
        "it reads a field that is known only after the answer: leave it out or take that of the "
        "previous event",
    ),
    "knows the answer": Repair(
        ILLEGITIMATE,
        "this column alone tells the answer of held-out rows: say when it is known; declare it as "
        "answered, or take its earlier values",
    ),
    "other entities": Repair(
        DEPENDENCE,
        "it reads rows of other entities: group (groupby or over) before shifting or aggregating",
    ),
    "order of rows": Repair(
        DEPENDENCE,
        "it reads over the border between two entities: sort and group before shifting",
    ),
    "fitted on test rows": Repair(
        BOTH, "training rows move when test rows change: fit on training rows only"
    ),
    "window over the border": Repair(
        DEPENDENCE,
        "training rows hold values of test rows: split first and cut windows afterwards, with a "
        "gap of one horizon",
    ),
    "selected on test rows": Repair(
        SELECTION, "which columns are kept depends on test rows: select on training rows only"
    ),
    "entity in two splits": Repair(
        DEPENDENCE, "split by entity, before cutting sequences, or by time inside each entity"
    ),
    "entity under two names": Repair(
        DUPLICATES, "merge entities with the same rows before splitting"
    ),
    "time order": Repair(TEMPORAL, "let all training rows be earlier than all others"),
    "duplicated rows": Repair(DUPLICATES, "drop duplicates before splitting"),
    "near duplicates": Repair(DUPLICATES, "look at the pairs and merge copies before splitting"),
    "stamp after the row": Repair(
        TEMPORAL, "values are stamped later than their row: join backwards on the stamp"
    ),
    "later rows": Repair(TEMPORAL, "use earlier rows only"),
}
