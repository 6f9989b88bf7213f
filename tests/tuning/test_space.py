"""What a study searches follows from the fields, and what a recipe says of them."""

from typing import Any

import pytest
from tuning_toy import Toy, problem

from kt_forecast.errors import InputError
from kt_forecast.tuning import Dimension, Space
from kt_forecast.tuning.space import space_of


def made(spaces: dict[str, dict[str, Any]] | None = None, **own: Any) -> Space:
    sections = {"settings": Toy(**own).model_dump()}
    return space_of(sections, {"settings": Toy}, spaces or {}, problem().check)


def of(space: Space, name: str) -> Dimension:
    return next(one for one in space.dimensions if one.field == name)


def test_fields_with_a_space_are_searched_and_no_others() -> None:
    space = made()
    assert [one.field for one in space.dimensions] == ["x", "n", "steps", "rate", "kind"]
    assert of(space, "rate").log
    assert not of(space, "x").whole
    assert of(space, "steps").whole
    assert space.own() == {
        "settings.x": 0.9,
        "settings.n": 4,
        "settings.steps": 10,
        "settings.rate": 1e-3,
        "settings.kind": "a",
    }


def test_a_space_grows_to_hold_the_recipes_own_value() -> None:
    space = made(x=2.5, n=5, rate=1.0)
    assert (of(space, "x").low, of(space, "x").high) == (0.0, 2.5)
    assert of(space, "n").choices == (1, 2, 4, 8, 16, 5)
    assert of(space, "rate").high == 1.0


def test_a_value_without_a_logarithm_is_booked_under_the_nearest() -> None:
    space = made({"settings": {"x": {"low": 0.1, "high": 1.0, "log": True}}}, x=0.0)
    assert (of(space, "x").low, of(space, "x").own) == (0.1, 0.1)


def test_a_recipe_narrows_adds_and_fixes() -> None:
    space = made(
        {"settings": {"x": {"low": 0.2, "high": 0.4}, "fixed": [7, 8], "n": 2, "kind": ["a", "b"]}},
        x=0.3,
    )
    assert (of(space, "x").low, of(space, "x").high) == (0.2, 0.4)
    assert of(space, "fixed").choices == (7, 8)
    assert space.fixed == {"settings.n": 2}
    applied = space.applied({"settings": Toy().model_dump()}, {"settings.x": 0.25})
    assert (applied["settings"]["n"], applied["settings"]["x"]) == (2, 0.25)


def test_a_choice_that_the_rest_of_the_recipe_refuses_is_left_out_and_said() -> None:
    space = made(n=16)
    assert "kind" not in [one.field for one in space.dimensions]
    assert space.notes == ("settings.kind: 'b' was left out (n 16 does not go with kind b)",)


@pytest.mark.parametrize(
    ("spaces", "said"),
    [
        ({"setings": {}}, "unknown section 'setings'"),
        ({"settings": {"rat": 1}}, "unknown field 'rat'; did you mean 'rate'?"),
        ({"settings": {"x": {"low": 0.5, "high": 0.1}}}, "low is 0.5 and high 0.1"),
        ({"settings": {"x": {"low": 0.0, "high": 0.1, "log": True}}}, "above 0 where log"),
        ({"settings": {"x": {"low": 0.5}}}, "is no interval"),
        ({"settings": {"x": {"low": 0.1, "high": 0.5, "lg": True}}}, "is no interval"),
        ({"settings": {"x": [-1.0, 0.5]}}, "-1.0 is refused"),
        ({"settings": {"x": {"low": -1.0, "high": 0.5}}}, "-1.0 is refused"),
        ({"settings": {"x": -1.0}}, "greater than or equal to 0"),
        (
            {"settings": {"x": 0.5, "n": 1, "steps": 5, "rate": 0.1, "kind": "a"}},
            "nothing is left to search",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(spaces: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        made(spaces)
    assert said in str(error.value)
