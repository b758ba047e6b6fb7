"""`diffi2i report`: all tables, figures and pictures of a budget as one HTML file."""

from pathlib import Path

from diffi2i.config.commands import ReportConfig
from diffi2i.errors import UserError
from diffi2i.files import inside, whole
from diffi2i.tables.report import page, sections_of
from diffi2i.tables.write import TABLES


def report(config: ReportConfig) -> Path:
    """Writes the report and says where. Returns its path.

    Raises:
        UserError: no table at that budget, or a file that cannot be written.
    """
    output, folder = Path(config.output), TABLES / config.budget
    if not list(folder.glob("*.json")):
        raise UserError(f"{folder} holds no table: diffi2i table all budget={config.budget} makes them")
    text = page(sections_of(folder, config.budget), config.budget)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole(inside(output.parent, output.name)) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return output
