"""The one place that mends a dependency: PyPI's pytorchvideo (0.1.5) on today's torchvision.

`pytorchvideo.transforms` imports `torchvision.transforms.functional_tensor`, which torchvision 0.17 renamed
to `_functional_tensor`. `import vidtune` makes the old name work again, without importing torchvision itself.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
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


def mend_imports() -> None:
    """Make old names of modules importable; calling it again changes nothing."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
