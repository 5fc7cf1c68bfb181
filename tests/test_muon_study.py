"The study of muons on the command line: its report, again, weak labels, other data, errors"
import json, shutil
import numpy as np, pandas as pd, pytest, torch
from hepebm.cli import main
from hepebm.core.arrays import Arrays, save
from hepebm.core.metrics import auc
from hepebm.core.training import load_model
from hepebm.data.muons import write_muons
from hepebm.data.samples import sample
from hepebm.muons.search import Choice
from hepebm.studies.muons import _band_of, _best, _some

SMALL = 'bootstraps=3', 'epochs=2', 'pfn_epochs=2', 'scan_epochs=1', 'train=700', 'test=600', 'unmix=3'

def hepebm(*args): return main(['run', 'muons', '--preset', 'smoke', '--device', 'cpu', *map(str, args)])

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('muons')/'run'
    assert hepebm('--out', out, '--set', *SMALL) == 0
    return out

def test_report(run):
    "Every model has its values with errors, differences stand beside them, and the order is said"
    metrics = json.loads((run/'metrics.json').read_text())
    for k in ('one cone','many cones','many cones + EFPs','momenta (PFN)','particles (PFN)'):
        assert .5 < metrics[f'auc/{k}']['value'] <= 1 and metrics[f'auc/{k}']['error'] > 0 and metrics[f'unmixed/{k}']['error'] > 0
    assert metrics['difference/many cones - one cone']['error'] > 0
    assert metrics['difference/many cones + EFPs - many cones']['error'] > 0
    report = (run/'report.html').read_text()
    assert 'many cones against one cone: ' in report and 'Rounds of the search' in report
    for k in ('auc','errors','differences','cones','search','choices','isolation','unmixed'): assert (run/f'tables/{k}.csv').exists()
    errors = pd.read_csv(run/'tables/errors.csv', index_col=0)
    assert errors['all rows'].between(.5, 1).all() and len(errors)==5
    net = load_model(run/'model')
    assert len(net.nets)==3 and sorted(p.name for p in run.glob('model*'))[0]=='model'

def test_score(run, tmp_path, capsys):
    "The models that are kept score muons of a file as the study did, with the share of other muons that look as prompt"
    test, file, out = sample('muons', 'test'), tmp_path/'a.safetensors', tmp_path/'s.csv'
    save(test, file)
    for model,name in ((run, 'particles (PFN)'), (run/'model-efps', 'many cones + EFPs')):
        assert main(['score', str(model), str(file), '-o', str(out)])==0
        t = pd.read_csv(out)
        bars = json.loads((run/'metrics.json').read_text())[f'auc/{name}']
        assert len(t)==len(test) and list(t)==['score','p_value'] and abs(auc(t.score.values, test.label)-bars['value']) < 5*bars['error']
        assert abs(t.p_value[(test.label==0).numpy()].mean()-.5) < .1 and t.p_value[(test.label==1).numpy()].median() < .1
    capsys.readouterr()
    for bad,word in ((sample('jets', 'test', 5), 'a.safetensors holds'), (test.drop('cands'), 'particles around them')):
        save(bad, file)
        assert main(['score', str(run), str(file), '-o', str(out)])==2
        assert word in capsys.readouterr().err
    assert main(['sample', str(run), '-n', '3', '-o', str(tmp_path/'s.h5')])==2 and 'nothing to sample' in capsys.readouterr().err

def test_tagger_keeps_its_inputs(run):
    "What the polynomials are is kept as graphs, and what the particles are as the name of a column"
    see = load_model(run/'model-efps').see
    (part,kappa,beta,edges), = see['polynomials']
    assert see['cones']==9 and part in ('all','charged') and kappa>0 and beta>0 and all(len(e)==2 for e in edges)
    assert load_model(run/'model').see['columns']==['pid'] and load_model(run/'model-momenta').see=={}
    a = sample('muons', 'valid', 5)
    with pytest.raises(ValueError, match='no pid'): load_model(run/'model').score(Arrays([k for k in a.features if k!='pid'], **a.drop('cands'), cands=a.cands[...,[i for i,k in enumerate(a.features) if k!='pid']]))

def test_run_again(run, capsys):
    "A run that lost its result trains nothing again and ends with the same numbers"
    before, kept = (run/'metrics.json').read_bytes(), sorted(p for p in (run/'training').rglob('*') if p.is_file())
    times = [p.stat().st_mtime_ns for p in kept]
    (run/'metrics.json').unlink(); shutil.rmtree(run/'tables')
    assert hepebm('--out', run, '--set', *SMALL) == 0
    assert (run/'metrics.json').read_bytes()==before and [p.stat().st_mtime_ns for p in kept]==times

def test_best():
    "The last gain beyond an error counts, not the highest number; without one, what came first"
    rounds = lambda aucs: [Choice(i, tuple(range(5, 5+i)), v, .99, .99-v, .99-v-.01, .99-v+.01, .1, 5+i if i<len(aucs)-1 else None, None, None, None) for i,v in enumerate(aucs)]
    assert _best(rounds([.90,.95,.951,.955]), .68)==[5]
    assert _best(rounds([.90,.95,.97,.971]), .68)==[5,6]
    assert _best(rounds([.95,.949,.948]), .68)==[5]
    assert _best(rounds([.95]), .68)==[]

def test_band():
    "Without any information as many others pass as prompt ones, and as many more or less as binomial errors say"
    rng = np.random.default_rng(0)
    label, shares = np.arange(4000)%2, np.array([.1,.5,.9])
    low, mid, high = _band_of(rng.normal(size=(200,4000)), label, shares, 0)
    np.testing.assert_allclose(mid, shares, atol=.01)
    np.testing.assert_allclose((high-low)/2, np.sqrt(2*2*shares*(1-shares)/2000), rtol=.3) # prompt and others, trainings and test events

def test_narrow_masses(tmp_path):
    "A file of prompt pairs that are all near the peak comes to its report"
    a = sample('muons', 'train', 3000)
    g = torch.Generator().manual_seed(0)
    save(a.assign(mass=torch.where(a.label==1, 91.2+torch.randn(3000, generator=g).clamp(-2, 2), a.mass)), tmp_path/'muons.safetensors')
    assert hepebm('--data', tmp_path/'muons.safetensors', '--out', tmp_path/'run', '--set', *SMALL) == 0
    assert pd.read_csv(tmp_path/'run/tables/unmixed.csv')['near the peak'].isna().all()

def test_masses_without_a_peak(tmp_path, capsys):
    "Without labels nothing is trained before the masses, which judge, are looked at"
    a = sample('muons', 'train', 3000)
    g = torch.Generator().manual_seed(0)
    save(a.drop('label').assign(mass=70+40*torch.rand(3000, generator=g)), tmp_path/'muons.safetensors')
    assert hepebm('--data', tmp_path/'muons.safetensors', '--out', tmp_path/'run', '--set', *SMALL) == 2
    assert 'the masses have to judge' in capsys.readouterr().err and not [*(tmp_path/'run').rglob('*.ckpt')]

def test_masses_that_say_nothing(tmp_path):
    "Labelled muons of which only the prompt ones come in pairs: the report says so and is whole"
    a = sample('muons', 'train', 3000)
    save(a.assign(mass=torch.where(a.label==1, a.mass, 0)), tmp_path/'muons.safetensors')
    assert hepebm('--data', tmp_path/'muons.safetensors', '--out', tmp_path/'run', '--set', *SMALL) == 0
    assert 'say nothing about the scores' in (tmp_path/'run/report.html').read_text() and not (tmp_path/'run/tables/unmixed.csv').exists()

def test_weak_labels(tmp_path):
    "Without labels, the mass window trains and sWeights judge"
    a = sample('muons', 'train')
    save(a.drop('label'), tmp_path/'muons.safetensors')
    assert hepebm('--data', tmp_path/'muons.safetensors', '--out', tmp_path/'run', '--set', *SMALL, 'train=3000', 'test=3000', 'select=.25') == 0
    report = (tmp_path/'run/report.html').read_text()
    assert 'weak labels' in report and 'AUC of weak labels' in report and 'values, differences and their order are biased' in report
    assert json.loads((tmp_path/'run/metrics.json').read_text())['auc/many cones + EFPs']['error'] > 0

def test_generate_with_pileup(tmp_path, monkeypatch, capsys):
    from hepebm.data import generators
    asked = {}
    def muons(*args, **kw): asked.update(kw); return sample('muons', 'valid')[:3]
    monkeypatch.setattr(generators, 'muons', muons)
    assert main(['generate', 'Z', '-n', '3', '-o', str(tmp_path/'z.h5'), '--pileup', '20'])==0 and asked['pileup']==20
    assert main(['generate', 'QCD', '-n', '3', '-o', str(tmp_path/'q.h5'), '--pileup', '20'])==2 and 'pileup' in capsys.readouterr().err

def test_order_of_the_file_does_not_matter():
    "A part of a file sorted by class holds both, in the shares of the file"
    a = sample('muons', 'train')
    a = a[a.label.argsort(stable=True)]
    for n in (500, 501, 6000):
        part = _some(a, n, 0)
        assert abs(len(part)-n)<=1 and abs(part.label.float().mean()-a.label.float().mean())<2/n and len(part.mass.unique())>.99*n

@pytest.mark.parametrize('setting,says', [('cones=19', '1 to 18'), ('pileup=some', 'pileup'), ('vertex=0', 'mm'), ('select=.7', 'below 0.7'), ('least=9', 'least < rounds'), ('degree=8', '1 to 7'), ('bootstraps=1', '2 or more'), ('labels=none', 'auto or truth or weak')])
def test_settings(setting, says, tmp_path, capsys):
    assert hepebm('--out', tmp_path/'run', '--set', setting) == 2
    err = capsys.readouterr().err
    assert says in err and err.count('\n')==1 and not (tmp_path/'run').exists()
