"""The error that a user can mend."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one sentence: what was wrong, where (file, row, column), and what would be
    accepted. The command line prints it alone and exits with code 2; nothing has been written.
    """


class TimeUpError(RuntimeError):
    """Training was asked to end before an epoch of it was done; its place is kept."""


class TrainingError(InputError):
    """Training met a number that is not finite.

    Attributes:
        epoch: counted from 1.
        batch: counted from 0 within the epoch.
        spans: first and last place (`Batch.place`) of each of the batch's rows, for a caller who
            knows which students they are; empty where no batch is to blame.
    """

    def __init__(
        self, message: str, *, epoch: int, batch: int = 0, spans: tuple[tuple[int, int], ...] = ()
    ) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.batch = batch
        self.spans = spans
