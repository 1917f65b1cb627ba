"""``report.html``: what a training divided, whether it helped, and where it fails, in one self-contained file.

It takes a base install and the extra ``report``: ``pip install "divconq-pl[report]"``.
"""

from divconq_pl.extras import require_packages

require_packages("divconq_pl.report", "report", "jinja2", "markupsafe", "PIL")

from divconq_pl.report.callback import ReportCallback, write_report
from divconq_pl.report.material import Images, Material
from divconq_pl.report.page import write_page

__all__ = ["Images", "Material", "ReportCallback", "write_page", "write_report"]
