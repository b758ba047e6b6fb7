"""A table's row of other authors' weights, from the file to the page."""

from pathlib import Path

import pytest
import torch
from spandrel.architectures.NAFNet import NAFNet

from diffi2i.commands.table import with_weights
from diffi2i.run.ensure import ensure
from diffi2i.run.plan import digest_of, evaluation
from diffi2i.run.record import Record
from diffi2i.run.state import read
from diffi2i.tables.draw import draw
from diffi2i.tables.experiment import load
from diffi2i.tables.plan import plan
from tests.own_tables import SETTINGS, own_conf, tables, write_table

__all__ = ["own_conf", "tables"]


@pytest.mark.slow
def test_it_is_made_scored_again_and_says_whose_they_are(
    tables: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS.replace("sisr", "deblur") + "imports: {peer: {source: spandrel}}\n"
    write_table(tables, "small", {}, 'row,label,"Set14, PSNR",note\npeer,NAFNet,1.0,\n', settings)
    network = NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    torch.save({"params": network.state_dict()}, file := Path("authors.pth"))
    scores = ["task.protocol.metrics=[psnr]", "task.main_metric=psnr", "trainer=cpu", "trainer.precision=fp32"]
    imports, given = {"small/peer": file}, ["dataset=folder", f"root={images}", *scores]
    experiment = with_weights(load("small"), imports)
    (cell,) = plan(experiment, "smoke", range(2), given, imports=imports)
    again = evaluation(cell.run, "other", ["set=['task.protocol.seed=1']"])
    ensure([cell.run, again])
    made, scored = read(cell.run), read(again)
    assert isinstance(made, Record)
    assert isinstance(scored, Record)
    assert made.method is not None
    assert scored.method is not None
    assert (made.budget, made.method.imported) == ("smoke", digest_of(file)) == ("smoke", scored.method.imported)
    page = draw(experiment, [cell], "smoke", Path("tables"))[0].read_text()
    assert f"NAFNet: other authors' weights (sha256 {digest_of(file)[:12]}), not trained here." in page
