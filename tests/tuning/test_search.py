"""One process at a study: what counts, what is pruned, what comes back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from tuning_toy import Epoch, Toy, problem, score

from kt_forecast.errors import InputError
from kt_forecast.tuning import (
    Budget,
    Found,
    Outcome,
    Place,
    Search,
    collect,
    ledger,
    search,
)
from kt_forecast.tuning.desk import Desk
from kt_forecast.tuning.frozen import seen
from kt_forecast.tuning.ledger import Trial, counts, slots
from kt_forecast.tuning.sampling import pruner
from kt_forecast.tuning.storage import Lock, open_storage, opened
from kt_forecast.tuning.study import _space

SECONDS, SECONDS_A_TRIAL = 10.0, 1.0


def done(
    settings: dict[str, Any] | None = None, storage: Path | None = None, run: Any = None
) -> Found:
    plain = {"trials": 12, "pruner": "none", "seeds": 1, "space": {"settings": {"n": [4, 8]}}}
    how = Search(**(plain | (settings or {})))
    return search(problem(run), how, Place("toy", storage), Budget())


def test_the_recipe_as_it_stands_is_trial_0_and_the_winner_is_no_worse() -> None:
    found = done()
    first = found.trials[0]
    assert first.is_default
    assert first.value == score(Toy())
    assert found.defaults == first
    assert found.winner is not None
    assert found.mean(found.winner) == max(one.value for one in found.trials if one.values)
    assert found.mean(found.winner) > first.value
    assert score(Toy(**found.sections["settings"])) == found.mean(found.winner)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2"])
def test_every_sampler_searches_and_one_process_draws_the_same_again(sampler: str) -> None:
    once, again = (done({"sampler": sampler, "trials": 14}) for _ in range(2))
    assert len(once.trials) == 14
    assert [one.params for one in once.trials] == [one.params for one in again.trials]
    assert len({str(one.params) for one in once.trials}) > 10


def test_cost_is_weighed_and_no_trial_on_the_front_is_beaten() -> None:
    found = done({"sampler": "nsga2", "cost": "flops", "trials": 20})
    completed = [one for one in found.trials if one.state == "complete"]
    assert all(len(one.values) == 2 for one in completed)
    assert all(one.values[1] == one.facts["flops"] for one in completed)
    for number in found.front:
        mine = found.trial(number)
        for other in completed:
            cheaper = other.values[1] <= mine.values[1] and other.value >= mine.value
            assert not cheaper or other.values == mine.values


def test_settings_that_make_no_sense_together_are_pruned_with_the_reason() -> None:
    space = {"settings": {"n": [4, 16], "kind": ["a", "b"]}}
    found = done({"space": space, "trials": 30})
    pruned = [one for one in found.trials if one.state == "pruned"]
    assert pruned
    assert {one.reason for one in pruned} == {"n 16 does not go with kind b"}
    assert all(one.params["settings.n"] == 16 for one in pruned)
    assert len(found.trials) == 30


def test_what_falls_behind_in_validation_is_pruned_but_never_the_recipe_itself() -> None:
    epochs: dict[float, int] = {}

    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        x = sections["settings"]["x"]
        value = -100.0 if x == 0.9 else -x
        for number in range(1, 10):
            epochs[x] = number
            tell(Epoch(number, {"auc": value}))
        return Outcome(value, 9, 9)

    found = done({"pruner": "halving", "trials": 20}, run=run)
    assert found.defaults is not None
    assert epochs[0.9] == 9
    pruned = [one for one in found.trials if one.state == "pruned"]
    assert pruned
    assert all(epochs[one.params["settings.x"]] < 9 for one in pruned)
    assert {one.reason for one in pruned} == {"validation fell behind"}
    best = min(one.params["settings.x"] for one in found.trials)
    assert found.trial(found.winner).params["settings.x"] == best


@pytest.mark.parametrize(
    ("name", "sampler", "kind"),
    [
        ("auto", "tpe", "SuccessiveHalvingPruner"),
        ("auto", "gp", "NopPruner"),
        ("hyperband", "gp", "HyperbandPruner"),
        ("none", "tpe", "NopPruner"),
    ],
)
def test_pruners_by_name(name: Any, sampler: Any, kind: str) -> None:
    assert type(pruner(name, sampler, 30)).__name__ == kind


def test_finalists_and_the_recipe_are_trained_with_further_seeds_once() -> None:
    trained: list[tuple[float, int]] = []
    plain = problem()

    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        trained.append((sections["settings"]["x"], seed))
        return plain.run(sections, seed, tell)

    found = done({"seeds": 3, "finalists": 2, "trials": 6}, run=run)
    assert len(trained) == 6 + 3 * 2
    assert len(set(trained)) == len(trained)
    assert [list(values) for values in found.repeats.values()] == [[0, 1, 2]] * 3
    assert found.defaults.number in found.repeats
    mean = score(Toy(**found.sections["settings"]), 1)
    assert found.mean(found.winner) == pytest.approx(mean)


def test_a_seed_can_change_the_winner() -> None:
    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        x = sections["settings"]["x"]
        lucky = 0.4 < x < 0.9
        return Outcome((1.0 if seed == 0 else -9.0) if lucky else x * 0.1)

    found = done({"seeds": 2, "finalists": 3, "trials": 8}, run=run)
    assert any(0.4 < found.trial(n).params["settings.x"] < 0.9 for n in found.repeats)
    assert not 0.4 < found.trial(found.winner).params["settings.x"] < 0.9


def test_the_same_call_goes_on_and_a_larger_number_adds(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    first = done({"trials": 5}, journal)
    again = done({"trials": 5}, journal)
    assert [one.params for one in again.trials] == [one.params for one in first.trials]
    more = done({"trials": 8}, journal)
    assert len(more.trials) == 8
    assert [one.params for one in more.trials[:5]] == [one.params for one in first.trials]
    assert sum(one.is_default for one in more.trials) == 1


def test_an_interrupted_trial_is_put_back_and_costs_no_attempt(tmp_path: Path) -> None:
    journal, calls = tmp_path / "journal.log", []
    plain = problem()

    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        calls.append(sections["settings"]["x"])
        if len(calls) in {2, 3, 4}:
            raise KeyboardInterrupt
        return plain.run(sections, seed, tell)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            done({"trials": 4}, journal, run)
    found = done({"trials": 4}, journal, run)
    assert [one.state for one in found.trials] == ["complete"] * 4
    assert calls[1] == calls[2] == calls[3] == calls[4]
    assert len(calls) == 4 + 3
    assert len(found.lost) == 3


def test_a_trial_that_two_processes_find_dead_is_booked_again_once(tmp_path: Path) -> None:
    about, how = problem(), Search(trials=3, seeds=1)
    with opened(str(tmp_path / "journal.log")) as storage:
        place = Place("toy", str(tmp_path / "journal.log"))
        desk = Desk(about, how, _space(about, how), place, Budget(), storage)
        desk.study.ask()
        for _ in range(2):
            desk.again(0, "its process ended without a word", died=True)
        booked = [one for one in desk.trials() if one.key == ledger.retry_of(0)]
    assert len(booked) == 1


def test_an_error_that_no_setting_explains_is_not_hidden(tmp_path: Path) -> None:
    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        done({}, tmp_path / "journal.log", run)
    study = optuna.load_study(study_name="toy", storage=open_storage(tmp_path / "journal.log"))
    assert study.trials[0].user_attrs[ledger.REASON] == "ZeroDivisionError: a bug"


def test_a_recipe_that_cannot_be_trained_is_refused_with_its_own_reason() -> None:
    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        raise InputError("no such metric")

    with pytest.raises(InputError, match="the recipe as it stands: no such metric"):
        done({"trials": 2}, run=run)


def test_memory_that_runs_out_and_scores_that_are_no_numbers_are_pruned() -> None:
    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        x = sections["settings"]["x"]
        if x < 0.3:
            raise MemoryError
        return Outcome(float("nan") if x < 0.6 else x)

    found = done({"trials": 20}, run=run)
    reasons = {one.reason for one in found.trials if one.state == "pruned"}
    assert reasons == {"no memory was left", "its score is nan"}


def test_time_that_is_up_ends_the_study_and_keeps_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, clock = problem(), [0.0]

    def run(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        clock[0] += SECONDS_A_TRIAL
        return plain.run(sections, seed, tell)

    monkeypatch.setattr(
        "kt_forecast.tuning.desk.seen", lambda one: replace(seen(one), seconds=SECONDS_A_TRIAL)
    )
    how = Search(hours=1.0, pruner="none", seeds=2, finalists=1)
    found = search(problem(run), how, Place("toy"), Budget(SECONDS, now=lambda: clock[0]))
    assert clock[0] <= SECONDS
    assert len(found.trials) > 3
    assert found.winner is not None
    assert len(found.repeats[found.winner]) == 2, "time was kept for the finalists"


def test_a_trial_cut_off_by_the_time_is_put_back(tmp_path: Path) -> None:
    clock = [0.0]

    def slow(sections: Any, seed: int, tell: Callable[[Any], None]) -> Outcome:
        for number in range(1, 1000):
            clock[0] += SECONDS_A_TRIAL
            tell(Epoch(number, {"auc": 0.1}))
        return Outcome(0.1)

    journal = tmp_path / "journal.log"
    how = Search(trials=2, seeds=1, pruner="none", space={"settings": {"n": [4, 8]}})
    found = search(problem(slow), how, Place("toy", journal), Budget(SECONDS, now=lambda: clock[0]))
    assert [one.state for one in found.trials] == ["waiting"]
    assert found.winner is None
    assert [one.state for one in done({"trials": 2}, journal).trials] == ["complete"] * 2


def test_collecting_does_no_work(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    found = done({"trials": 4}, journal)
    how = Search(trials=4, seeds=1, space={"settings": {"n": [4, 8]}})
    same = collect(problem(), how, Place("toy", journal))
    assert (same.winner, len(same.trials)) == (found.winner, 4)


def test_a_line_that_a_kill_cut_off_does_not_break_the_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    done({"trials": 3}, journal)
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x"')
    assert len(done({"trials": 5}, journal).trials) == 5
    assert all(line.endswith("}") for line in journal.read_text().splitlines())


def test_the_lock_of_a_journal_goes_with_its_holder(tmp_path: Path) -> None:
    first, second = (Lock(tmp_path / "journal.log") for _ in range(2))
    first.acquire()
    first.release()
    assert second.acquire()
    second.release()


def trial(number: int, **notes: Any) -> Trial:
    return Trial(number, "complete", notes=notes)


def test_of_trials_with_one_key_only_the_first_counts() -> None:
    retry = {ledger.KEY: ledger.retry_of(1), ledger.ATTEMPT: 2}
    trials = [
        trial(0, **{ledger.KEY: ledger.DEFAULT}),
        trial(1),
        trial(2, **{ledger.KEY: ledger.DEFAULT}),
        trial(3, **retry),
        trial(4, **retry),
        trial(5, **{ledger.SURPLUS: True}),
        trial(6),
        trial(7),
    ]
    assert [[one.number for one in slot.tries] for slot in slots(trials)] == [[0], [1, 3], [6], [7]]
    assert [counts(number, trials, 3) for number in range(8)] == [
        True,
        True,
        False,
        True,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "neither trials nor hours"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"trials": 3, "sampler": "random"}, "'tpe', 'gp', 'cmaes' or 'nsga2'"),
        ({"trials": 3, "sampler": "nsga2", "pruner": "halving"}, "nsga2 compares whole trials"),
        (3, "accepted is a dictionary"),
    ],
)
def test_a_search_is_refused_in_a_sentence(given: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        Search.of(given)
    assert said in str(error.value)


@pytest.mark.parametrize("url", ["nosuch://host/name", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_storage_that_cannot_be_opened_is_refused(url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("kt_forecast.tuning.storage.PAUSE_SECONDS", 0.0)
    with pytest.raises(InputError, match="cannot be opened"):
        open_storage(url)
