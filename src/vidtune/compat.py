"""The one place that mends imports: PyPI's pytorchvideo (0.1.5) on today's torchvision, and the package evaluate.

`pytorchvideo.transforms` imports `torchvision.transforms.functional_tensor`, which torchvision 0.17 renamed
to `_functional_tensor`. `import vidtune` makes the old name work again, without importing torchvision itself.

Python looks for modules in the folder of the script first, and there recipes/evaluate.py has the name of a package.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

RENAMED = {"torchvision.transforms.functional_tensor": "torchvision.transforms._functional_tensor"}


class RenamedModules(MetaPathFinder, Loader):
    """Finds a module by its old name, after every other finder has failed to."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a renamed module; None for all others."""
        return ModuleSpec(fullname, self) if fullname in RENAMED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module with the new name in the place of the old one."""
        sys.modules[module.__name__] = importlib.import_module(RENAMED[module.__name__])


class EvaluatePackage(MetaPathFinder):
    """Finds the package `evaluate`, and not a script of that name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the package; None for all others."""
        if fullname != "evaluate":
            return None
        return PathFinder.find_spec(fullname, [path for path in sys.path if not Path(path, "evaluate.py").is_file()])


def mend_imports() -> None:
    """Make old names of modules, and the right `evaluate`, importable; calling it again changes nothing."""
    if not any(isinstance(finder, EvaluatePackage) for finder in sys.meta_path):
        sys.meta_path.insert(0, EvaluatePackage())
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
