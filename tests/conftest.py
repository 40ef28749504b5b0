"""Makes `attnc` importable from a bare checkout: the four folders are one package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "attnc": "compiler",
    "attnc.ir": "ir",
    "attnc.passes": "passes",
    "attnc.backends": "backends",
}


def map_folders() -> None:
    """Load each folder as the package that its installed form has."""
    for package, folder in FOLDERS.items():
        path = ROOT / folder
        spec = importlib.util.spec_from_file_location(
            package, path / "__init__.py", submodule_search_locations=[str(path)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        if package == "attnc":
            continue
        spec.loader.exec_module(module)
        setattr(sys.modules["attnc"], folder, module)
    spec = sys.modules["attnc"].__spec__
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(sys.modules["attnc"])


if importlib.util.find_spec("attnc") is None:
    map_folders()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what is printed over what is expected"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long run is asked for by its name: pytest -m slow."""
    if "slow" not in str(config.getoption("-m")):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="the long run: pytest -m slow"))
