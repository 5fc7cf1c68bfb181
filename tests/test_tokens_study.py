"The study of tokens: again, in two processes, with all that is known of particles; errors"
import json, os, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from hepebm.cli import main
from hepebm.core.arrays import save
from hepebm.core.training import load_model
from hepebm.data.samples import sample
from hepebm.studies.tokens import ratio

root = Path(__file__).resolve().parent.parent
SMALL = 'ebm_updates=0', 'variants=', 'pfn_epochs=1', 'test=300', 'train=300', 'others=bins', 'codes=512', 'generate=160', 'critic=60', 'scored=60', 'bootstrap=3'

def hepebm(*args): return main(['run', 'tokens', '--preset', 'smoke', '--device', 'cpu', *map(str, args)])

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('tokens')/'run'
    assert hepebm('--out', out, '--set', *SMALL) == 0
    return out

def test_run_again(run, capsys):
    "A run that lost its result after the trainings trains nothing again and ends with the same numbers; a finished one does nothing"
    before, models = (run/'metrics.json').read_bytes(), sorted((run/'training').rglob('last.ckpt'))
    times = [p.stat().st_mtime_ns for p in models]
    assert {p.parent.name for p in models} == {'vqvae','author'}
    (run/'metrics.json').unlink()
    shutil.rmtree(run/'model'), shutil.rmtree(run/'tables')
    assert hepebm('--out', run, '--set', *SMALL) == 0
    assert (run/'metrics.json').read_bytes() == before and (run/'tables/classes.csv').exists() and (run/'model/written.safetensors').exists()
    assert [p.stat().st_mtime_ns for p in models] == times
    capsys.readouterr()
    assert hepebm('--out', run, '--set', *SMALL) == 0
    assert 'is finished' in capsys.readouterr().out

@pytest.mark.long
def test_run_broken_off(run, tmp_path):
    "A run that ends while its author is in training, and goes on, has the numbers of one that did not"
    out = tmp_path/'run'
    script = "import sys\nfrom hepebm.core import training\nplain = training.Run.loss\ncalls = []\ndef loss(self, *a):\n    calls.append(0)\n    if len(calls)==9: raise KeyboardInterrupt\n    return plain(self, *a)\ntraining.Run.loss = loss\nfrom hepebm.cli import main\nsys.exit(main(sys.argv[1:]))"
    args = ['run', 'tokens', '--preset', 'smoke', '--device', 'cpu', '--out', str(out), '--set', *SMALL]
    r = subprocess.run([sys.executable, '-c', script, *args], env=dict(os.environ, PYTHONPATH=str(root), IN_TEST='1'), capture_output=True, text=True)
    assert r.returncode == 130 and (out/'training/vqvae/last.ckpt').exists() and not (out/'training/author/model').exists(), r.stderr[-2000:]
    assert main(args) == 0
    a, b = (json.loads((o/'metrics.json').read_text()) for o in (run, out))
    assert a == b

@pytest.mark.long
def test_two_processes(tmp_path):
    "Large trainings are shared, what comes after runs in one"
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    args = ['run', 'tokens', '--preset', 'smoke', '--device', 'cpu', '--devices', '2', '--out', str(tmp_path/'run'), '--set', *SMALL[2:], 'variants=both', 'ebm_updates=2']
    r = subprocess.run([str(Path(sys.executable).parent/'hepebm'), *args], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert r.returncode == 0, r.stderr[-3000:]
    metrics = json.loads((tmp_path/'run/metrics.json').read_text())
    assert {'surprise/both', 'variant-fpd/both', 'reranked-w1/tau32/jet energy', 'c2st/top/written'} <= metrics.keys()
    assert all(metrics[f'{k}/QCD/written']['error'] > 0 for k in ('c2st','coverage','fpd'))
    for k in ('vqvae','author','variant-both'): assert torch.load(tmp_path/'run/training'/k/'last.ckpt', weights_only=True)['settings']['processes'] == 2
    assert main(['run', *args[1:]]) == 0

@pytest.mark.long
def test_extended(tmp_path, capsys):
    "Identity, charge and displacement through the whole study, from a file that has them"
    a = sample('jets', 'test')
    a = a[torch.cat([(a.label==k).nonzero()[:200,0] for k in range(4)])]
    save(a, tmp_path/'jets.safetensors')
    assert hepebm('--data', tmp_path/'jets.safetensors', '--out', tmp_path/'run', '--set', *SMALL, 'extended=True') == 0
    assert load_model(tmp_path/'run/model-tokenizer').extended
    metrics = json.loads((tmp_path/'run/metrics.json').read_text())
    assert 0 < metrics['error/particle kind/vqvae']['value'] < 1 and 'error/particle kind/bins' not in metrics
    for few,says in ((a.drop('d0'), 'd0'), (a[:-150], '20 test jets of class 3')):
        save(few, tmp_path/'less.safetensors')
        assert hepebm('--data', tmp_path/'less.safetensors', '--out', tmp_path/'no', '--set', *SMALL, 'extended=True') == 2
        assert says in capsys.readouterr().err

def test_ratio_is_a_ratio():
    "Two normal distributions of the energy: minus the log ratio of their densities"
    from hepebm.core.arrays import Arrays
    g = torch.Generator().manual_seed(0)
    a, b = (Arrays(x=m+torch.randn(20_000, generator=g, dtype=torch.float64)) for m in (1., 0.))
    at = Arrays(x=torch.linspace(-1, 2, 7, dtype=torch.float64))
    assert np.allclose(ratio(lambda j: j.x, a, b)(at), -(at.x-.5), atol=.1)

@pytest.mark.parametrize('particles', [20, 21])
def test_spectra_have_all_jets(particles):
    "Those that fill the page, too"
    from hepebm.studies.tokens import _spectra_panels
    from fastcore.basics import AttrDict
    n = np.array([1., 5., particles])
    one = {k: n for k in ('mass','n','tau21','tau32')}
    panel = [p for p in _spectra_panels(dict(QCD=dict(real=one, words=one)), AttrDict(particles=particles)) if p['xlabel']=='constituents'][0]
    assert panel['x'][0] < 1 and panel['x'][1] > particles
