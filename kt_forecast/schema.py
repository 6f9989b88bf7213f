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
