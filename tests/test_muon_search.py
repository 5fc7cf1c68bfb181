"The guided search: pairs, ties, splits with a purpose each, stop rules, and starting again"
import itertools, json
from functools import partial
import numpy as np, pytest, torch
from hepebm.core.arrays import Arrays, Scaler
from hepebm.core.training import adam
from hepebm.muons.networks import IsoNet
from hepebm.muons.search import Choice, _Lasso, _why, ado, decision_order, efp_terms, guided_search, lasso_choice, random_pairs, search_rows
from hepebm.nn.efps import graphs

def net(x): return IsoNet(x.shape[1], 8, 1, scaler=Scaler().fit(x))
quick = dict(epochs=6, patience=3, size=64, opt=adam(1e-2, fused=True))

def puzzle(n=900, seed=0, k=12):
    g = torch.Generator().manual_seed(seed)
    x, bank = torch.randn(n, 2, generator=g), torch.randn(n, k, generator=g)
    logit = x.sum(1)+2*bank[:,3]
    return Arrays(x=x, label=(torch.rand(n, generator=g)<logit.sigmoid()).long()), bank, logit

@pytest.mark.parametrize('n', (1, 7, 200, 10**6))
def test_pairs(n):
    y = (torch.arange(70)%5==0).long()
    p = random_pairs(y, n, seed=3)
    assert len(p)==min(n, 14*56)==len(p.unique(dim=0))
    assert not y[p[:,0]].any() and y[p[:,1]].all()

def test_pairs_are_uniform():
    y = torch.tensor([0]*6+[1]*5)
    n = np.zeros((6,5))
    for s in range(600):
        for i,j in random_pairs(y, 6, s).tolist(): n[i,j-6] += 1
    assert abs(n/600-.2).max()<.08

def test_ado_by_loop():
    g = torch.Generator().manual_seed(2)
    f, bank = torch.randint(5, (40,), generator=g).double(), torch.randint(4, (40,3), generator=g).double()
    pairs = torch.tensor([*itertools.permutations(range(40), 2)])
    def one(a, b): return 1. if a*b>0 else .5 if a*b==0 else 0.
    want = [np.mean([one(f[i]-f[j], b[i]-b[j]) for i,j in pairs.tolist()]) for b in bank.T]
    assert np.allclose(ado(f, bank, pairs), want, atol=1e-6)
    assert torch.equal(decision_order(f, bank, pairs), (f[pairs[:,0]]-f[pairs[:,1]])[:,None]*(bank[pairs[:,0]]-bank[pairs[:,1]])>0)

def test_a_constant_is_never_chosen():
    data, bank, logit = puzzle()
    bank[:,0] = 1.
    first = next(guided_search(net, data, bank, logit, n=20, starts=1, fit=quick))
    assert first.index==3 and abs(first.ados[0]-.5)<1e-6

def test_each_part_has_its_purpose():
    "What is chosen does not depend on the rows that judge; what is judged does not depend on the rows that select; nothing but the fit rows trains"
    data, bank, logit = puzzle()
    rows = search_rows(data.label)
    go = lambda bank=bank, logit=logit: next(guided_search(net, data, bank, logit, rows, n=20, starts=1, fit=quick))
    first = go()
    other = logit.clone(); other[rows.judge] += .5*torch.randn(len(rows.judge), generator=torch.Generator().manual_seed(1))
    a = go(logit=other)
    assert (a.index, a.ado, a.disagree)==(first.index, first.ado, first.disagree) and a.auc==first.auc and a.target!=first.target
    other = logit.clone(); other[rows.select] = -other[rows.select]
    b = go(logit=other)
    assert (b.auc, b.target, b.gap)==(first.auc, first.target, first.gap) and b.disagree!=first.disagree
    moved = bank.clone(); moved[torch.cat([rows.fit, rows.judge])] = 0.
    assert go(bank=moved).index==first.index

def choice(k, auc, low=.01, index=1, high=.03): return dict(round=k, auc=auc, low=low, high=high, index=index)
def history(*areas): return [Choice(k, (), a, 1., .02, .01, .03, 0., 1, '', 1., None) for k,a in enumerate(areas)]
rule = dict(patience=2, min_gain=0., rounds=20, level=.95, least=0)

@pytest.mark.parametrize('now,before,columns,why', [
    (choice(0, .8, low=-.001), (), 9, 'closed'), (choice(0, .8, low=-.009, high=-.003), (), 9, 'worse'), (choice(0, .8), (), 9, None), (choice(2, .8, index=None), (.7,.75), 9, 'agreement'),
    (choice(2, .78), (.8,.79), 9, 'no gain'), (choice(2, .81), (.8,.79), 9, None), (choice(2, .804), (.8,.79), 9, 'no gain'), (choice(3, .8), (.7,.81,.8), 9, 'no gain'), (choice(19, .99), tuple(i/100 for i in range(19)), 99, 'rounds'), (choice(2, .9), (.7,.8), 3, 'rounds')])
def test_stop_rule(now, before, columns, why): assert _why(now, history(*before), rule, columns)==why

def test_least():
    "So many choices are made, though the target is no better, or worse"
    data, bank, _ = puzzle()
    for least in (0, 2):
        found = [*guided_search(net, data, bank, -data.x.sum(1), least=least, n=20, starts=1, fit=quick)]
        assert [c.index is None for c in found]==[False]*least+[True] and found[-1].stop=='worse' and len(found[-1].chosen)==least

@pytest.mark.parametrize('level', (.5, .68, .95))
def test_a_gain_is_more_than_one_deviation(level):
    "Whatever the level of the interval"
    from scipy.stats import norm
    sigma, z = .01, norm.ppf(.5+level/2)
    wide = lambda k, auc: dict(round=k, auc=auc, low=.1-z*sigma, high=.1+z*sigma, index=1)
    past = [Choice(0, (), .8, 1., .1, .1-z*sigma, .1+z*sigma, 0., 1, '', 1., None)]
    for gain,why in ((.9, 'no gain'), (1.1, None)): assert _why(wide(1, .8+gain*sigma), past, rule | dict(patience=1, level=level), 9)==why

def test_killed_in_every_round(tmp_path):
    data, bank, logit = puzzle()
    kw = dict(rounds=3, n=20, patience=9, starts=2, fit=quick)
    go = lambda out=None: guided_search(net, data, bank, logit+torch.randn(900, generator=torch.Generator().manual_seed(0)), out=out, **kw)
    whole = [*go()]
    for k in range(1, len(whole)+1): got = [c for _,c in zip(range(k), go(tmp_path))]
    assert [c[:-1] for c in got]==[c[:-1] for c in whole] and len(json.loads((tmp_path/'search.json').read_text())['rounds'])==len(whole)
    with pytest.raises(ValueError, match='other settings: data'): next(guided_search(net, data, bank+1, logit, out=tmp_path, **kw))

def test_more_rounds(tmp_path):
    "A search goes on when more rounds are allowed, and stops earlier when fewer are, as if it had been started so"
    data, bank, logit = puzzle()
    target = logit+torch.randn(900, generator=torch.Generator().manual_seed(0))
    go = lambda rounds, out=None: [c[:-1] for c in guided_search(net, data, bank, target, rounds=rounds, least=9, out=out, n=20, patience=9, starts=2, fit=quick)]
    for rounds in (2, 4, 3, 4): assert go(rounds, tmp_path)==go(rounds)

def test_not_finite():
    data, bank, logit = puzzle()
    bad, miss = bank.clone(), logit.clone()
    bad[5,2], miss[7] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r'bank holds 1 .*\[5, 2\]'): next(guided_search(net, data, bad, logit))
    with pytest.raises(ValueError, match='target holds 1'): next(guided_search(net, data, bank, miss))
    with pytest.raises(ValueError, match='bank holds 1'): lasso_choice(data.x, bad, data.label, 3)

def test_lasso_without_penalty_is_logistic_regression():
    from sklearn.linear_model import LogisticRegression
    data, bank, _ = puzzle()
    x = torch.cat([data.x, bank], 1)
    w = torch.rand(900, generator=torch.Generator().manual_seed(0))+.5
    c = _Lasso(x, data.label, w, 14).solve(torch.zeros(15, dtype=torch.float64), .1, 5000, 1e-12)
    ref = LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000).fit(x.double().numpy(), data.label.numpy(), w.numpy())
    assert np.allclose(c[1:], ref.coef_[0], atol=1e-4)

def test_lasso_leaves_the_base_free():
    "A column that the base already holds is not chosen"
    data, bank, _ = puzzle()
    assert lasso_choice(torch.cat([data.x, bank[:,3:4]], 1), bank, data.label, 1)!=[3]
    assert lasso_choice(data.x, bank, data.label, 3)[0]==3

@pytest.mark.parametrize('i', range(21))
def test_shares_add_up(i):
    "Shares of particles and of pairs sum to one, for every graph up to four edges"
    g, graph = torch.Generator().manual_seed(i), graphs(4, p_max=1)[i]
    pt, at = torch.rand(5, 7, generator=g, dtype=torch.float64)+.1, torch.randn(5, 7, 2, generator=g, dtype=torch.float64)*.2
    mask = torch.arange(7)<torch.tensor([7,4,2,1,0])[:,None]
    for kappa,beta in ((1.,1.), (0.,.25), (-1.,4.)):
        t = efp_terms(pt, at, mask, graph, kappa, beta)
        ok = t.value>0
        assert torch.allclose(t.particle.sum(1)[ok], torch.ones(int(ok.sum()), dtype=torch.float64)) and not t.particle[~ok].any()
        if graph: assert torch.allclose(t.pair.sum((1,2))[ok], torch.ones(int(ok.sum()), dtype=torch.float64))
        assert t.particle.isfinite().all() and t.pair.isfinite().all() and not t.particle[~mask].any()
