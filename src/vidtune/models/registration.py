"""Makes the Auto classes of transformers know our models, when transformers is imported, not before.

`import vidtune` must cost milliseconds, and the classes need torch. So the two modules in which the Auto classes keep
their configurations and models are imported through here, and are told of ours as soon as they are there. As they may
be imported in the middle of what our models need, of these they get the names only.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class NamedModel:
    """Stands for a model class, which is imported when it is used.

    Args:
        module: Where the class is.
        name: Of the class.
        config_class: Of its configuration.
    """

    def __init__(self, module: str, name: str, config_class: type) -> None:
        self.module, self.__name__, self.config_class = module, name, config_class

    def __getattr__(self, attribute: str) -> Any:
        """Whatever else the class has."""
        return getattr(getattr(importlib.import_module(self.module), self.__name__), attribute)


MODELS = {
    "ZooConfig": ("vidtune.models.zoo", "ZooForVideoClassification"),
    "FrameClassifierConfig": ("vidtune.models.frames", "FrameClassifierForVideoClassification"),
    "InterpolatedVideoMAEConfig": ("vidtune.models.positions", "InterpolatedVideoMAEForVideoClassification"),
    "AttentiveProbeConfig": ("vidtune.models.attentive_probe", "AttentiveProbeForVideoClassification"),
}
"""By the name of its configuration, where a model is and what it is called."""


def register_configurations() -> None:
    """Make AutoConfig know our configurations."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from vidtune.models import configurations

    for name in MODELS:
        config = getattr(configurations, name)
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models() -> None:
    """Make AutoModelForVideoClassification, and the pipeline that uses it, know our models."""
    from transformers.models.auto import modeling_auto

    from vidtune.models import configurations

    for config_name, (module, name) in MODELS.items():
        config = getattr(configurations, config_name)
        model = NamedModel(module, name, config)
        modeling_auto.AutoModelForVideoClassification.register(config, model, exist_ok=True)
        # The pipeline looks for names only.
        modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES[config.model_type] = name


REGISTER: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_configurations,
    "transformers.models.auto.modeling_auto": register_models,
}


class AutoModules(MetaPathFinder):
    """Finds the modules of REGISTER as Python does, and has them registered with once they are executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of such a module; None for all others."""
        register = REGISTER.get(fullname)
        spec = PathFinder.find_spec(fullname, path, target) if register else None
        if spec is None or spec.loader is None or register is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            register()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_when_imported() -> None:
    """Register with what is imported already now, and with the rest later; calling it again changes nothing."""
    for name, register in REGISTER.items():
        if name in sys.modules:
            register()
    if not any(isinstance(finder, AutoModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, AutoModules())
