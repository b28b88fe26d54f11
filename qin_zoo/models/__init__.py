"""What every model shares: the FuxiCTR base class and the one value it hands to a model."""

from qin_zoo.models.base import ZooModel
from qin_zoo.models.inputs import ModelInput

__all__ = ["ModelInput", "ZooModel"]
