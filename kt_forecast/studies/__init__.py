"""Measurements of what a state makes cheap, one file each; the folder is the registry.

A study says what it measures, on which machine, and beside what: the fair baseline stands next to
the weak one that papers prefer. It leaves a JSON file, from which its page can be drawn anywhere.
Nothing here needs a tracking server, so that ``python -m kt_forecast.studies`` runs on a machine
that holds little more than torch.
"""

from kt_forecast.studies.running import STUDIES, draw, run_study

__all__ = ["STUDIES", "draw", "run_study"]
