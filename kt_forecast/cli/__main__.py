"""``python -m kt_forecast.cli``."""

from kt_forecast.cli import main

main()
