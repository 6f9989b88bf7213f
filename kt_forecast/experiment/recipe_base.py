"""What the recipes of both tasks share: TOML that a user copies and edits, read and written."""

import tomllib
from collections.abc import Callable
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w
from pydantic import Field

from kt_forecast.config import Config
from kt_forecast.data.cards import card_names
from kt_forecast.errors import InputError

PIPELINES = "pipelines"
KIND = "kind"
"""The key that chooses between settings of several classes."""


class ModelRecipe(Config):
    """What is trained.

    Attributes:
        system: a name that ``kt-forecast zoo`` lists.
        settings: the system's own settings; each system refuses keys that it does not have.
    """

    system: str = "gpt"
    settings: dict[str, Any] = Field(default_factory=dict)


class SourceRecipe(Config):
    """Where a table comes from.

    Attributes:
        source: a path, or the name of a data set with a card.
        format: a format's name, or ``auto`` to look at the file.
        columns: our name of a column to the table's own.
    """

    source: str
    format: str = "auto"
    columns: dict[str, str] = Field(default_factory=dict)


class BaseRecipe(Config):
    """One experiment.

    Attributes:
        name: short; the run is called after it.
        seed: of the first weights, of training, and of drawn splits.
        data: where the table comes from.
        model: what is trained.
        training: settings of the loop.
        search: fields that ``kt-forecast tune`` shall search otherwise, or not at all, by section
            (``settings``, ``training`` and the task's own): ``{low, high, log}``, a list of
            choices, or one value.
    """

    OF_SYSTEM: ClassVar[tuple[str, ...]] = ("model",)
    """Keys whose settings are those of the system."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$")
    seed: int = Field(0, ge=0)
    data: SourceRecipe
    model: ModelRecipe = ModelRecipe()
    training: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a recipe; a table that is not here is looked for beside the recipe.

        Raises:
            InputError: the file is not there, is no TOML, or holds an unknown key or value.
        """
        return cls.at(path, read_toml(path))

    @classmethod
    def at(cls, path: Path, plain: dict[str, Any]) -> Self:
        """Return the recipe that a file holds.

        Args:
            path: the file.
            plain: what `read_toml` found in it.

        Raises:
            InputError: it holds an unknown key or value.
        """
        plain.setdefault("name", path.stem)
        recipe = cls.parse(plain, str(path))
        source = recipe.data.source
        beside = path.parent / source
        if Path(source).exists() or source in card_names() or not beside.exists():
            return recipe
        return recipe.changed({"data": {"source": str(beside)}}, str(path))

    def changed(self, changes: dict[str, Any], where: str) -> Self:
        """Return the recipe with some keys replaced, and checked again.

        Args:
            changes: nested like the recipe; tables are merged key by key, but one of another
                ``kind`` takes the place of the whole.
            where: who asks, for the message.

        Raises:
            InputError: a key or value is refused.
        """
        chosen = _without_none(self.model_dump(mode="json", exclude_unset=True))
        return type(self).parse(_merged(chosen, changes), where)

    def on(self, table: dict[str, Any], where: str) -> Self:
        """Return the recipe for a table; one of another source gives the run its name too.

        Args:
            table: keys of ``[data]`` to replace.
            where: who asks, for the message.

        Raises:
            InputError: a key or value is refused.
        """
        found = self.changed({"data": table}, where)
        if found.data.source == self.data.source or not self.name:
            return found
        stem = Path(found.data.source).name.split(".")[0]
        return found.changed({"name": _fit_for_a_name(f"{self.name}-{stem}")}, where)

    def with_system(
        self, system: str, *, trained: bool, say: Callable[[str], None] | None = None
    ) -> Self:
        """Return the recipe for another system, without the settings that were the first one's.

        Args:
            system: its name; the recipe's own changes nothing.
            trained: whether it has epochs, and so takes the settings of the loop.
            say: told what of the task the other system cannot take over.
        """
        del say
        if system == self.model.system:
            return self
        plain = _without_none(self.model_dump(mode="json", exclude_unset=True))
        kept = {key: value for key, value in plain.items() if key not in self.OF_SYSTEM}
        if not trained:
            kept.pop("training", None)
        if self.name:
            kept["name"] = f"{self.name}-{system}"
        return type(self).parse(kept | {"model": {"system": system}}, "--system")

    def with_sets(self, sets: list[str]) -> Self:
        """Return the recipe with dotted keys replaced, each given as ``a.b=c``.

        Raises:
            InputError: one is not of that form, or a key or value is refused.
        """
        recipe = self
        for text in sets:
            recipe = recipe.changed(_nested(text), f"--set {text}")
        return recipe

    def plain(self) -> dict[str, Any]:
        """Return the recipe as plain values, as TOML writes them; what is None is left out."""
        unsaid = None if self.search else {"search"}
        return _without_none(self.model_dump(mode="json", exclude=unsaid))

    def to_toml(self) -> str:
        """Return the recipe with every default written out.

        The path of a table is written out too, so that the recipe works in any folder.
        """
        plain = self.plain()
        if self.data.source not in card_names() and Path(self.data.source).exists():
            plain["data"]["source"] = str(Path(self.data.source).resolve())
        return tomli_w.dumps(plain)

    def title(self) -> str:
        """Return the run's short name."""
        return self.name or f"{self.model.system}-{Path(self.data.source).name.split('.')[0]}"


def shipped(name: str) -> Path:
    """Return the path of a recipe: a file, or the name of one in the folder of recipes.

    Raises:
        InputError: there is no such file; the nearest name is suggested.
    """
    path = Path(name)
    if path.is_file():
        return path
    folders = [folder / PIPELINES for folder in (Path.cwd(), *Path.cwd().parents)]
    folders.append(Path(__file__).parents[2] / PIPELINES)
    folder = next((f for f in folders if f.is_dir()), folders[-1])
    stem = path.name.removesuffix(".toml")
    if path.parent == Path() and (folder / f"{stem}.toml").is_file():
        return folder / f"{stem}.toml"
    known = sorted(found.stem for found in folder.glob("*.toml"))
    near = get_close_matches(stem, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"{folder} holds {', '.join(known) or 'none'}"
    raise InputError(f"{name}: no such recipe; {hint}")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it is not there, or is no TOML.
    """
    try:
        return dict(_dates_as_text(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); accepted is a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML ({error}); accepted is a recipe") from None


def _fit_for_a_name(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in text)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, new in changes.items():
        old = merged.get(key)
        merged[key] = new
        if isinstance(old, dict) and isinstance(new, dict):
            is_other = KIND in new and new[KIND] != old.get(KIND)
            merged[key] = new if is_other else _merged(old, new)
    return merged


def _nested(text: str) -> dict[str, Any]:
    """Return ``a.b=c`` as nested plain values; ``c`` is read as TOML, else as text.

    Raises:
        InputError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not (equals and all(parts)):
        raise InputError(f"--set {text!r}: accepted is A.B=C, as in training.epochs=3")
    try:
        found: Any = _dates_as_text(tomllib.loads(f"value = {value}")["value"])
    except tomllib.TOMLDecodeError:
        found = value.strip()
    for part in reversed(parts):
        found = {part: found}
    return dict(found)


def _dates_as_text(value: Any) -> Any:  # noqa: ANN401
    """Return TOML's values with its dates as ISO text, which is how settings take them."""
    if isinstance(value, dict):
        return {key: _dates_as_text(part) for key, part in value.items()}
    return value.isoformat() if isinstance(value, date) else value


def _without_none(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return value
