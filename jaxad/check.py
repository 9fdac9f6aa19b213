"""Finds bad data before it costs a run.

  python -m jaxad.check --config FILE [--config.a.b=value]

Prints a table and ends with status 0 where there is no error, 1 where there is one, and
2 where the data cannot even be listed. A run looks first, and stops at errors.
"""

from ml_collections import config_flags

from jaxad import command_line

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file or name, with an optional argument: FILE[:arg]."
)


def main() -> int:
    from jaxad import data

    data.require_known(_CONFIG.value.dataset)  # before all the rest is imported
    command_line.look_for_data(_CONFIG.value)
    return command_line.asking(_CONFIG.value, _check)


def _check(config) -> int:
    from jaxad import data, methods
    from jaxad.inference import places
    from jaxad.run import doctor, pipeline

    # Completed, since masks are looked at in the size that the backbone sees.
    config, broken = pipeline.members(config)[0], False
    learns_from, config = methods.learns_from(config), config.dataset
    categories = data.categories(config)
    places.require_names(categories)
    for category in categories:
        findings = doctor.check(config, category, learns_from)
        errors = sum(finding.severity == doctor.ERROR for finding in findings)
        print(f"{category}: errors {errors}, warnings {len(findings) - errors}")
        print(doctor.table(findings), end="")
        broken = broken or errors > 0
    return int(broken)


if __name__ == "__main__":
    command_line.run(main, "check", ("config",))
