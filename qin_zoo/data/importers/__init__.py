"""Public data sets, read in their own formats and written in the challenge's layout.

    summary = import_folder("recbole", "ml-100k", "data/ml-100k", ImportOptions(label="rating>=4"))
    summary = import_table(describe([Path("shop")]), "data/shop")     # one's own csv and parquet files

One module per format reads a folder into an :class:`~qin_zoo.data.importers.log.InteractionLog`; the others turn
any such log into rows whose histories and features hold only what was known at the row's moment. FuxiCTR's own
data sets bring rows, not interactions, and are converted as they are (``fuxictr.py``).
"""

from qin_zoo.data.importers.options import ImportOptions
from qin_zoo.data.importers.run import FORMATS, import_folder, import_table
from qin_zoo.data.importers.write import ImportSummary

__all__ = ["FORMATS", "ImportOptions", "ImportSummary", "import_folder", "import_table"]
