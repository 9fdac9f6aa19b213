"""The tables of a study: Markdown for people, LaTeX for a paper."""

from collections.abc import Callable, Sequence

from jaxad import statistics
from jaxad.reporting import study_images, study_results
from jaxad.reporting.study_results import Cell, Study
from jaxad.run import results
from jaxad.statistics import Difference

# What varies within a seed.
INNER = {"bank": "starts of the coreset", "draw": "draws of few shots, within a seed"}
# Of tests on the same images, those that are shown one by one.
_SHOWN = 24


def markdown(study: Study, tests: Sequence[study_images.Test] | None = None) -> str:
    """`study.md`.

    Args:
      study: as far as it has come.
      tests: on the same images; None before all runs are finished, when there are no
        tests at all.
    """
    parts = [f"# Study {study.name}", _means(study)]
    parts += [_failed(study)] if any(study.failed.values()) else []
    if tests is not None:
        parts.append(_differences(study))
        if not study.plain:
            parts += [_rankings(study), _on_images(study, tests)]
    if len(study.categories()) > 1:
        parts.append(_by_category(study))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def number(study: Study, value: float, *, sign: bool = False) -> str:
    """As the tables have it: per cent, or plain of probes."""
    scale, digits = (1, 4) if study.plain else (100, 2)
    return f"{scale * value:{'+' if sign else ''}.{digits}f}"


def shown(study: Study, cell: Cell | None, interval: bool = False) -> str:
    """Mean ± standard deviation over seeds, of one seed over draws or banks."""
    if cell is None:
        return "-"
    mean, text = cell.mean, number(study, cell.mean.value)
    if mean.deviation is not None:
        text += f" ± {number(study, mean.deviation)}"
        if interval:
            text += f" [{number(study, mean.low)}, {number(study, mean.high)}]"
    return text


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )


def _means(study: Study) -> str:
    within = {
        metric
        for metric in study.metrics
        for row in study.rows
        if (one := study_results.cell(study, row, metric)) and one.within is not None
    }
    header, rows = ["row", "runs"], []
    for metric in study.metrics:
        header += [metric, f"± {study.inner}s"] if metric in within else [metric]
    for row, runs in study.runs.items():
        line = [row, str(len(runs))]
        for metric in study.metrics:
            one = study_results.cell(study, row, metric) if runs else None
            line.append(shown(study, one, interval=True))
            if metric in within:
                known = one is not None and one.within is not None
                line.append(number(study, one.within) if known else "-")
        rows.append(line)
    note = "Means over categories"
    note += "" if study.plain else ", in per cent"
    note += f"; ± is the standard deviation over seeds, of one seed over {study.inner}s"
    note += ", [ ] the mean's interval of 95 % (Student's)."
    if within:
        note += (
            f" ± {study.inner}s is the standard deviation over {INNER[study.inner]}."
        )
    return f"{_table(header, rows)}\n\n{note}"


def _failed(study: Study) -> str:
    lines = [
        f"* {row}, seed {seed}: {why.splitlines()[0] if why else 'no reason'}"
        for row, seeds in study.failed.items()
        for seed, why in seeds.items()
    ]
    return "## Failed\n\n" + "\n".join(lines)


def baseline(study: Study) -> str:
    """That of all rows, or what is said where they have several."""
    names = set(study.baselines.values())
    return names.pop() if len(names) == 1 else "each row's own baseline"


def _interval(study: Study, found: Difference) -> str:
    value, low, high = (
        number(study, x, sign=True) for x in (found.value, found.low, found.high)
    )
    return f"{value} [{low}, {high}]"


def _differences(study: Study) -> str:
    head, compared = f"## Against {baseline(study)}", study.compared
    if not compared:
        return f"{head}\n\nThere are no runs to compare."
    rows, few, several = [], False, len(set(compared.values())) > 1
    for metric in study.metrics:
        found = {
            row: study_results.against(study, metric, other, row)
            for row, other in compared.items()
        }
        tested = [row for row, one in found.items() if one and one.difference]
        of_t = statistics.holm([found[row].difference.p_value for row in tested])
        of_rank = statistics.holm([found[row].signed_rank.p_value for row in tested])
        adjusted = dict(zip(tested, zip(of_t, of_rank, strict=True), strict=True))
        for row, one in found.items():
            line = [row, compared[row], metric] if several else [row, metric]
            if one is None:
                rows.append([*line, "-", "-", "-", "-"])
            elif row not in tested:
                value = number(study, one.value, sign=True)
                rows.append([*line, value, "one pair", "-", "-"])
            else:
                small = one.signed_rank.too_few()
                few |= small
                rank = f"{p_value(adjusted[row][1])}{' (too few)' if small else ''}"
                over = f"{one.count} {_plural(one.unit, one.count)}"
                rows.append(
                    [*line, _interval(study, one.difference), over]
                    + [p_value(adjusted[row][0]), rank]
                )
    header = ["row", "against", "metric"] if several else ["row", "metric"]
    table = _table([*header, "difference", "over", "p, t-test", "p, Wilcoxon"], rows)
    text = f"{head}\n\n{table}\n\nPairs have the same seed, category and {study.inner}"
    text += "; p-values with Holm's adjustment over the rows."
    if few:
        text += (
            " Too few: of so few pairs Wilcoxon's test can never be below 0.05, as of "
            "five not below 0.0625."
        )
    return text


def _plural(unit: str, count: int) -> str:
    if count == 1:
        return unit
    return "categories" if unit == "category" else f"{unit}s"


def _rankings(study: Study) -> str:
    parts = ["## Ranks"]
    for metric in study.metrics:
        found = study_results.ranking(study, metric)
        if isinstance(found, str):
            parts.append(f"{metric}: {found}.")
            continue
        rows, unit, ranks = found
        order = sorted(range(len(rows)), key=lambda i: ranks.ranks[i])
        named = "; ".join(f"{rows[i]} {ranks.ranks[i]:.2f}" for i in order)
        groups = [" = ".join(rows[i] for i in group) for group in ranks.alike()]
        alike = f" Not told apart: {'; '.join(groups)}." if groups else ""
        said = f"{metric}, over {ranks.count} {_plural(unit, ranks.count)}: {named}. "
        if ranks.too_few():
            # Nor do Friedman's approximations hold for so few.
            parts.append(f"{said}Too few: no ranks could lie far enough apart.")
            continue
        parts.append(
            f"{said}Friedman p {p_value(ranks.chi_square_p_value)}, Iman-Davenport p "
            f"{p_value(ranks.f_p_value)}; critical difference (Nemenyi, 0.05) "
            f"{ranks.critical_difference:.2f}.{alike}"
        )
    return "\n\n".join(parts)


def _on_images(study: Study, tests: Sequence[study_images.Test]) -> str:
    head = "## On the same test images"
    if not tests:
        return f"{head}\n\nNo two runs of one seed have scored the same images."
    head += (
        f"\n\nAgainst {baseline(study)} with the same seed: AUROC by DeLong's test, "
        "all else by the stratified paired bootstrap over images; p-values with Holm's "
        "adjustment over the rows. `study_tests.csv` has every test."
    )
    tested = {test.metric for test in tests}
    if without := [metric for metric in study.metrics if metric not in tested]:
        head += f" No such test: {', '.join(without)}."
    if len(tests) <= _SHOWN:
        rows = [
            [x.row, x.category, str(x.repeat), x.metric]
            + [_interval(study, x.difference), p_value(x.adjusted)]
            for x in tests
        ]
        header = ["row", "category", "seed", "metric", "difference", "p"]
        return f"{head}\n\n{_table(header, rows)}"
    rows = []
    for row in study.compared:
        for metric in dict.fromkeys(test.metric for test in tests):
            mine = [x for x in tests if x.row == row and x.metric == metric]
            sure = [x for x in mine if x.adjusted < 1 - statistics.LEVEL]
            higher = sum(x.difference.value > 0 for x in sure)
            counts = [str(higher), str(len(sure) - higher), str(len(mine))]
            rows.append([row, metric, *counts])
    return f"{head}\n\n{_table(['row', 'metric', 'higher', 'lower', 'of'], rows)}"


def _by_category(study: Study) -> str:
    parts, columns = ["## Per category"], study.columns()
    header = ["row", *(name for name, _ in columns)]
    for metric in study.metrics:
        rows = [
            [row]
            + [
                shown(study, study_results.cell(study, row, metric, categories))
                for _, categories in columns
            ]
            for row in study.rows
        ]
        parts.append(f"### {metric}\n\n{_table(header, rows)}")
    return "\n\n".join(parts)


# ---- LaTeX


def latex(study: Study) -> str:
    """`study.tex`: the means, and a table a metric with a column a category.

    The best row is bold where the paired test says that it is better than every other;
    of probes none is, for which less may be better.
    """
    best = {
        metric: None if study.plain else study_results.best(study, metric)
        for metric in study.metrics
    }

    def value(row, metric, categories=None):
        one = study_results.cell(study, row, metric, categories)
        text = shown(study, one).replace("±", r"$\pm$").replace("-", "--")
        bold = categories is None and row == best[metric]
        return rf"\textbf{{{text}}}" if bold else text

    said = "Mean over categories."
    if not study.plain:
        said = (
            "Mean over categories, in per cent. Bold: better than every other row "
            "(paired t-test over runs, Holm, 5\\,\\%)."
        )
    tables = [
        _booktabs(
            study.metrics,
            study.rows,
            lambda row: [value(row, metric) for metric in study.metrics],
            f"{_escaped(study.name)}. {said}",
        )
    ]
    if len(study.categories()) > 1:
        columns = study.columns()
        for metric in study.metrics:
            tables.append(
                _booktabs(
                    [name for name, _ in columns],
                    study.rows,
                    lambda row, metric=metric: [
                        value(row, metric, categories) for _, categories in columns
                    ],
                    f"{_escaped(study.name)}: {_escaped(metric)} of every category.",
                )
            )
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def _booktabs(
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Callable[[str], list[str]],
    caption: str,
) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *map(_escaped, columns)]) + r" \\",
        r"\midrule",
        *(" & ".join([_escaped(row), *cells(row)]) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{caption}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_SPECIAL = {
    **{letter: rf"\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def write(study: Study, *, tests: Sequence[study_images.Test] | None) -> None:
    """All tables of a study, as far as it has come.

    Args:
      tests: as `markdown` takes them; without them `study.md` alone is written.

    Raises:
      InputError: a file cannot be written.
    """
    results.write_text(study.folder / "study.md", markdown(study, tests))
    if tests is not None:
        study_results.write_values(study)
        study_images.write(study.folder, tests)
        results.write_text(study.folder / "study.tex", latex(study))
