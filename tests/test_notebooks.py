"Every notebook's cells, one test a notebook."
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_nb

cfg = get_config()
nbs = [p for p in sorted(nbglob(cfg.nbs_path, as_path=True)) if not (p.parent/'.notest').exists()]

@pytest.mark.parametrize('nb', nbs, ids=lambda p: str(p.relative_to(cfg.nbs_path)))
def test_notebook(nb): assert run_nb(nb, skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)[0]
