"""Every column name and its unit, once; this module is the glossary.

A question with several concepts is ONE row whose `CONCEPTS` is a set. A row is an *interaction*:
one student answering one question once.
"""

STUDENT = "student"
"""Who answered. Text or integer in a table; any distinct value is a student."""

QUESTION = "question"
"""What was asked. Text or integer; a table without it uses the concept set as the question."""

CONCEPTS = "concepts"
"""The set of concepts (skills, knowledge components) the question exercises; may be empty."""

RESPONSE = "response"
"""1 when the first answer was correct, 0 when it was not. Known only AFTER the step."""

TIME = "time"
"""When the question was put, integer milliseconds since any fixed moment. Optional. Equal times of
one student form a bundle: its questions see none of each other's responses."""

LINE = "line"
"""Line of the file a row came from, counted from 1; carried for messages, dropped at the door."""

ORDER = "order"
"""A sortable event id of the student's interactions (an order id or log id). Optional."""

ELAPSED = "elapsed"
"""Seconds the student spent on the step. Known only AFTER the step."""

ATTEMPTS = "attempts"
"""Attempts the student made at the step. Known only AFTER the step."""

HINTS = "hints"
"""Hints the student asked for in the step. Known only AFTER the step."""

FOLD = "fold"
"""The published fold of the student; `TEST_FOLD` marks the published test students. Optional."""

TEST_FOLD = -1

ANSWER_EXTRAS = (ELAPSED, ATTEMPTS, HINTS)
"""Columns recorded with the answer; the task shifts them behind the response, never before it."""

REQUIRED = (STUDENT, RESPONSE)
COLUMNS = (STUDENT, QUESTION, CONCEPTS, RESPONSE, TIME, ORDER, *ANSWER_EXTRAS, FOLD)

P_CORRECT = "p_correct"
"""Predicted probability that the response is 1."""

ROW = "row"
"""Row of the table of interactions that a prediction belongs to."""

ANSWERS_SEEN = "answers_seen"
"""How many answers of the student came before the step's event; in a table of ranges, the least."""

ANSWERS_SEEN_MOST = "answers_seen_most"
"""The most answers seen in a range; empty where the range has no end."""

N_ROWS = "n_rows"
"""How many predictions a line of a result table sums up."""

P_LEAST = "p_least"
"""Lower edge of a calibration bin; p_correct at the edge belongs to the bin."""

AUC = "auc"
AUC_LOW = "auc_low"
AUC_HIGH = "auc_high"
"""Area under the ROC curve and the ends of its interval."""

UNIQUE_ID = "unique_id"
"""Name of a series in a long table."""

DS = "ds"
"""Stamp of a value: a date, a moment, or an integer."""

Y = "y"
"""Value of a series, in its own unit."""

CUTOFF = "cutoff"
"""Stamp of the last value that a forecast could read."""

STEP = "step"
"""Steps ahead of the origin, counted from 1."""

N_WINDOWS = "n_windows"
"""How many windows of one series a line of a result table sums up."""

N_VALUES = "n_values"
"""How many values ahead, none of them missing, a line of a result table sums up."""
