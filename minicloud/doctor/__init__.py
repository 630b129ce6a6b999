"""A look at this host and its cloud: what does not stand, why, and the command that mends it.

`check.py` says what a check is and runs them; the checks are in the other modules, a function
each.  Adding one is adding one function under `@check("name")`, its test `test_<name>_…` in
`tests/unit/test_doctor.py`, and its line in `docs/doctor.md`.
"""

from __future__ import annotations

from minicloud import nouns

nouns.load(__name__)
