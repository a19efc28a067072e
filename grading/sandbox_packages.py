"""The packages that a Python grader finds: of those that OpenAI's graders have, the ones installed here."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

PACKAGES_DIR = "/packages"
NAMES = (
    *("ast-grep-py", "deepdiff", "jsonschema", "nltk", "numpy", "pandas", "pydantic", "pyyaml"),
    *(
        "rapidfuzz",
        "rdkit",
        "rouge-score",
        "scikit-bio",
        "scikit-learn",
        "scipy",
        "sqlparse",
        "sympy",
    ),
)

_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


@cache
def package_binds() -> tuple[str, ...]:
    """bwrap's options that put them and what they require into PACKAGES_DIR, and nothing else of ours."""
    found: dict[str, Distribution] = {}
    wanted = list(NAMES)
    while wanted:
        name = wanted.pop().lower().replace("_", "-").replace(".", "-")
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for requirement in found[name].requires or ():
            match = _REQUIREMENT.match(requirement)
            if match and "extra ==" not in requirement:
                wanted.append(match[0])
    binds: list[str] = []
    for entry in sorted({path for each in found.values() for path in _entries(each)}):
        binds += ["--ro-bind", str(entry), f"{PACKAGES_DIR}/{entry.name}"]
    return tuple(binds)


def _entries(package: Distribution) -> set[Path]:
    """Its folders and modules, as they lie beside each other in site-packages."""
    tops = {
        file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")
    }
    paths = {Path(str(package.locate_file(top))) for top in tops}
    return {path for path in paths if path.exists()}
