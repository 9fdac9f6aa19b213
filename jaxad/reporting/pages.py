"""The pages: a run's report, a comparison of runs, a study."""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from jaxad.errors import InputError
from jaxad.reporting import (
    comparison_page,
    reading,
    run_page,
    study_images,
    study_page,
    study_results,
    study_tables,
)
from jaxad.reporting.reading import REPORT
from jaxad.run import results

_LOG = logging.getLogger(__name__)
_TEMPLATES = pathlib.Path(__file__).with_name("templates")


def after(workdir: str) -> None:
    """Writes the report of a run that has ended, unless it is there already.

    A run has its results, whatever becomes of the report: what cannot be written is a
    warning.
    """
    folder = pathlib.Path(workdir)
    page, of = folder / REPORT, folder / reading.RESULTS
    try:
        if not page.exists() or page.stat().st_mtime < of.stat().st_mtime:
            write(folder)
    except (InputError, OSError) as error:
        _LOG.warning("no report: %s", error)


def study_so_far(folder: pathlib.Path) -> None:
    """Writes `study.md` of the runs that are finished."""
    study_tables.write(study_results.read(folder), tests=None)


def table_of_study(folder: pathlib.Path) -> str:
    """The means of a study, as far as it has come, for a terminal."""
    return study_tables.markdown(study_results.read(folder), None)


def after_study(workdir: str) -> pathlib.Path | None:
    """Writes the tables and the report of a study that has ended, and the reports of
    its runs, as `after`.

    Returns:
      The study's; None where it could not be written, or its runs leave no detectors.
    """
    folder = pathlib.Path(workdir)
    found = study_results.read(folder)
    if found is None:
        return None
    tests = study_images.tests(found)
    study_tables.write(found, tests=tests)
    if not found.rows:
        return None
    _plot(study_page.charts(found), folder / "plots")
    if found.plain:
        return None
    for seeds in found.runs.values():
        for run in seeds.values():
            after(str(run))
    page = folder / REPORT
    try:
        return _render("study.html", page, study_page.context(found, tests, page))
    except (InputError, OSError) as error:
        _LOG.warning("no report: %s", error)
        return None


def _plot(charts, folder: pathlib.Path) -> None:
    """Writes every chart, and removes those of a kind that the study has no longer."""
    places = set()
    for kind, metric, drawn in charts:
        places.add(folder / f"{metric}_{kind}.svg")
        shown = {"kind": kind, "metric": metric, "drawn": drawn}
        _render("plot.svg", folder / f"{metric}_{kind}.svg", shown)
    for kind in study_page.KINDS:
        for old in set(folder.glob(f"*_{kind}.svg")) - places:
            old.unlink()


def write(folder: pathlib.Path, page: pathlib.Path | None = None) -> pathlib.Path:
    """Writes the report of a run, or of a study.

    Args:
      folder: of either.
      page: the file; by default `report.html` in the folder.

    Returns:
      The file.

    Raises:
      InputError: there is no finished run, or the file cannot be written.
    """
    page = page or folder / REPORT
    found = study_results.read(folder)
    if found is not None and found.rows and not found.plain:
        tests = study_images.tests(found)
        return _render("study.html", page, study_page.context(found, tests, page))
    return _render("run.html", page, run_page.context(reading.run(folder), page))


def write_comparison(
    folders: Sequence[pathlib.Path], page: pathlib.Path
) -> pathlib.Path:
    """Writes a comparison of runs, each with the first one; as `write`."""
    runs = [reading.run(folder) for folder in folders]
    return _render("comparison.html", page, comparison_page.context(runs, page))


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.1f} %)" if of else "none"


def _render(template: str, page: pathlib.Path, context: dict[str, Any]) -> pathlib.Path:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": _percent, "share": _share}
    text = environment.get_template(template).render(context)
    # Names of files may hold bytes that are no UTF-8; a page is.
    results.write_text(page, text, errors="replace")
    return page
