from qin_zoo.api import Dataset as Dataset
from qin_zoo.api import Run as Run
from qin_zoo.api import load as load
from qin_zoo.api import train as train
from qin_zoo.batch import ItemBatch as ItemBatch
from qin_zoo.errors import QinZooError as QinZooError
from qin_zoo.estimator import QinZooClassifier as QinZooClassifier
from qin_zoo.models import ModelInput as ModelInput
from qin_zoo.models import ZooModel as ZooModel
from qin_zoo.registry import create_model as create_model
from qin_zoo.registry import get_model as get_model
from qin_zoo.registry import list_models as list_models
from qin_zoo.registry import register_model as register_model

__version__: str
