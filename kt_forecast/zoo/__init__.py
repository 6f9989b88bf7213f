"""Published sequence systems, one file each; the folder is the registry, there is no list."""

from kt_forecast.nn.system import System, modules_in, named


def names() -> list[str]:
    """Return the names of all systems, from the folder."""
    return list(modules_in("kt_forecast.zoo"))


def load(name: str) -> System:
    """Return a system by name.

    Raises:
        InputError: no file of the zoo has that name; the nearest is suggested.
    """
    system: System = named("kt_forecast.zoo", name, "SYSTEM", "system")
    return system
