"""`diffi2i table`: finished runs side by side, or the paper's tables and figures."""

from diffi2i.config.schema import TableConfig
from diffi2i.tables import command
from diffi2i.tables.plan import names_experiment
from diffi2i.tables.runs import print_table


def table(config: TableConfig) -> None:
    """Prints a table of finished runs; or plans experiments, runs what is missing, and draws them.

    Raises:
        UserError: a name of neither, or runs that do not compare.
        SystemExit: status 1, with the tables drawn, where runs failed.
    """
    if config.dry_run or any(names_experiment(name) for name in config.names):
        command.table(config)
    else:
        print_table(config.names)
