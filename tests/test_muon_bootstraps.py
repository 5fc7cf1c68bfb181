"Intervals of muon networks: what they must not depend on, and how often they hold the truth"
import numpy as np, pytest, torch
from functools import partial
from hepebm.core.arrays import Arrays, Scaler
from hepebm.core.metrics import auc
from hepebm.core.training import adam
from hepebm.data.muons import MassFit, toy_muons, z_window
from hepebm.muons.bootstraps import bootstraps, difference, mass_metrics, scan, tpr50
from hepebm.muons.networks import IsoNet, tpr_at, unmixed
from hepebm.nn.ensembles import member_interval

def toys(n, seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n)%2
    return Arrays(x=torch.randn(n, 4, generator=g)+.6*y[:,None]*torch.tensor([1.,.5,0,0]), label=y)
def net(): return IsoNet(4, 8, 1)
quick = dict(epochs=8, size=64, opt=adam(1e-2, fused=True))

def test_same_seed_same_result():
    a, t = toys(300, 0), toys(200, 1)
    one, two = (bootstraps(net, a, 3, t, seed=4, **quick) for _ in range(2))
    assert torch.equal(one.scores, two.scores) and one.found==two.found

def test_own_metrics_and_weights():
    a, t = toys(300, 0), toys(200, 1)
    b = bootstraps(net, a.assign(weight=torch.rand(300, generator=torch.Generator().manual_seed(0))), 3, t, metrics=dict(best=lambda s, y: float(s.max())), **quick)
    assert abs(b.found['best'].value-b.scores.amax(1).mean())<1e-5

def test_difference_is_of_the_same_replicas():
    a, t = toys(300, 0), toys(200, 1)
    one, two = bootstraps(net, a, 6, t, **quick), bootstraps(partial(IsoNet, 4, 24, 2), a, 6, t, **quick)
    d = difference(one, two)
    assert abs(d.value-(two.found['auc'].value-one.found['auc'].value))<1e-12
    assert d.std < np.hypot(one.found['auc'].std, two.found['auc'].std)/1.5
    with pytest.raises(ValueError, match='same bootstraps'): difference(one, bootstraps(net, a, 3, t, **quick))

@pytest.mark.long
def test_coverage():
    "Worlds with a known spread: the interval is as wide as it should be, and does not shrink with more members"
    worlds = [(toys(250, 2*i), toys(250, 2*i+1)) for i in range(30)]
    found = [bootstraps(net, a, 16, t, replicas=160, **quick).found['auc'] for a,t in worlds]
    big = toys(40_000, 999)
    truth = np.mean([f.value for f in found])
    spread = np.std([f.value for f in found])
    assert .7 < np.mean([f.std for f in found])/spread < 1.5
    inside = np.mean([f.low-.0 <= truth <= f.high for f in found])
    assert .45 < inside < .92
    more = bootstraps(net, *(worlds[0][0], 48, worlds[0][1]), replicas=480, **quick).found['auc']
    assert .7 < more.std/found[0].std < 1.4

def peak(seed, n=2500):
    "Pairs, a score that separates them, and their classes"
    a = z_window(toy_muons(n, peak=.7, seed=seed))
    return a.mass, torch.randn(len(a), generator=torch.Generator().manual_seed(seed))+1.2*a.z.float(), a.z

@pytest.mark.long
def test_unmixed_error():
    "Pulls of the AUC by sWeights, with the mass fitted again each time, have mean zero and width one"
    pulls = np.array([(u.auc-auc(s, z))/u.std for m,s,z in map(peak, range(50, 100)) for u in [unmixed(m, s, n=24)]])
    assert abs(pulls.mean())<.45 and .7<np.sqrt((pulls**2).mean())<1.1, (pulls.mean(), np.sqrt((pulls**2).mean()))

def test_error_holds_the_fit():
    "The interval of a metric without labels is wider by what the fit does not know, and as wide as that of `unmixed`"
    m, s, _ = peak(3)
    fit = MassFit().fit(m)
    wide, narrow = (member_interval(mass_metrics(fit, r)['auc'], torch.stack([s,s]), m, n=100) for r in (True, False))
    assert wide.std>1.1*narrow.std and abs(wide.value-narrow.value)<1e-4
    assert abs(wide.std/unmixed(m, s, fit, n=100).std-1)<.35

def test_fit_again():
    "From the values of another fit to the same minimum, with what is fixed left alone"
    m, other = peak(3)[0].numpy(), peak(4)[0].numpy()
    for fixed in ({}, dict(gamma=1.2475)):
        fit = MassFit(**fixed).fit(m)
        assert np.allclose(fit.again(other).values, MassFit(**fixed).fit(other).values, rtol=2e-3)
        assert not fixed or fit.again(other).values[3]==1.2475

@pytest.mark.parametrize('seed', range(4))
def test_tpr_at(seed):
    "Against a search along the curve"
    from hepebm.core.metrics import roc
    rng = np.random.default_rng(seed)
    s, y, w = rng.normal(size=60).round(1), rng.integers(2, size=60), rng.normal(1, .7, 60)
    r = roc(s, y, w)
    for f in rng.uniform(.01, .99, 20):
        i = next(i for i,v in enumerate(r.fpr) if v>=f)
        want = r.tpr[i-1]+(f-r.fpr[i-1])/(r.fpr[i]-r.fpr[i-1])*(r.tpr[i]-r.tpr[i-1])
        assert abs(tpr_at(r, f)[0]-want)<1e-12

def test_scan_stops_and_resumes(tmp_path):
    a = toys(240, 0)
    kw = dict(k=3, valid=.2, epochs=8, patience=2, size=32, opt=adam(1e-2, fused=True), n=5, scaler=Scaler().fit(a.x))
    go = lambda **more: scan(net, a, {'all': range(4), 'first': [0], 'noise': [2,3]}, **kw, **more)
    whole, kept = go(), go(out=tmp_path)
    again = go(out=tmp_path)
    assert torch.equal(kept.scores, again.scores) and torch.allclose(whole.scores, kept.scores, atol=1e-5)
    assert whole.table.auc['all'] > whole.table.auc['noise'] and len(whole.ensemble)==9
    assert (whole.fold.bincount()==80).all()

@pytest.mark.long
def test_scan_in_processes():
    a = toys(240, 0)
    kw = dict(k=3, valid=0, epochs=3, size=32, opt=adam(1e-2, fused=True), n=5, scaler=Scaler().fit(a.x))
    one, two = (scan(net, a, [[0,1],[2,3]], jobs=j, **kw) for j in (1, 2))
    assert torch.allclose(one.scores, two.scores, atol=1e-5)

def test_mass_metrics():
    a = z_window(toy_muons(3000, peak=.7, seed=1))
    s = (torch.randn(len(a), generator=torch.Generator().manual_seed(0))+1.5*a.z.float()).numpy()
    m = mass_metrics(MassFit().fit(a.mass))
    assert abs(m['auc'](s, a.mass)-auc(s, a.z))<.06 and abs(m['tpr50'](s, a.mass)-tpr50(s, a.z))<.1
