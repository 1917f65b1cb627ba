"""``report.html``: what a training divided, whether it helped, and where it fails, in one self-contained file.

It takes a base install and the extra ``report``: ``pip install "divconq-pl[report]"``.
"""

from typing import TYPE_CHECKING

from divconq_pl.extras import require_packages
from divconq_pl.lazy import import_when_used

require_packages("divconq_pl.report", "report", "jinja2", "markupsafe", "PIL")

if TYPE_CHECKING:
    from divconq_pl.report.callback import ReportCallback as ReportCallback
    from divconq_pl.report.callback import write_report as write_report
    from divconq_pl.report.material import Images as Images
    from divconq_pl.report.material import Material as Material
    from divconq_pl.report.page import write_page as write_page
else:
    __getattr__, __dir__, __all__ = import_when_used(__name__)
