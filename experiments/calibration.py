"""Predictions of the catalogue against every published measurement it was made from or can be held against.

`python -m experiments.calibration` prints the comparison, which is part of `docs/catalogue.md`
(`experiments.catalogue_page`).
"""

from __future__ import annotations

from experiments.yardsticks.calibration import checks_as_markdown

if __name__ == "__main__":
    print(checks_as_markdown())
