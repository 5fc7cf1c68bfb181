"Ensembles against loops that train one network after the other."
import copy
from functools import partial
import numpy as np, pytest, torch
from torch import nn
from torch.testing import assert_close
from hepebm.core.arrays import Arrays, Scaler
from hepebm.core.metrics import auc
from hepebm.core.training import adam, generator, load_model, save_model
from hepebm.nn.ensembles import Ensemble, _Any, _Chain, _judge, _layers, bce, cross_validate, fit_ensemble, fit_members, folds, member_interval, predict, slopes
from hepebm.nn.sets import DeepSet, mlp

g = torch.Generator().manual_seed(0)
label = (torch.rand(500, generator=g)<.3).long()
flat = Arrays(x=torch.randn(500, 5, generator=g, dtype=torch.float64)+label[:,None], label=label)
mask = torch.rand(500, 9, generator=g)<.5
mask[:3] = False
sets = Arrays(x=torch.randn(500, 9, 3, generator=g, dtype=torch.float64)+label[:,None,None], mask=mask, label=label, weight=torch.rand(500, generator=g, dtype=torch.float64))
def chain(): return mlp(5, 8, 8, 1)
def deep(): return DeepSet(3, 8, out=1)

def loop(make, a, rows, i, seed, epochs, size, steps=None):
    "One network, as anyone would train it"
    torch.manual_seed(generator(seed, name=f'start {i}').initial_seed())
    net = make().double()
    opt, steps = torch.optim.Adam(net.parameters(), 1e-2), steps or -(-len(rows)//size)
    for e in range(epochs):
        order = rows[torch.randperm(len(rows), generator=generator(seed, name=f'order {i} {e}'))]
        for k in range(steps):
            b = a[order[len(rows)*k//steps:len(rows)*(k+1)//steps]]
            out = (net(b.x, b.mask) if 'mask' in a else net(b.x))[:,0]
            opt.zero_grad()
            l, w = nn.functional.binary_cross_entropy_with_logits(out, b.label.double(), reduction='none'), b.weight if 'weight' in a else torch.ones_like(out)
            ((w*l).sum()/w.sum()).backward()
            opt.step()
    return net

@pytest.mark.parametrize('make,a', ((chain,flat), (deep,sets)), ids=('chain','set'))
def test_alone(make, a):
    "Lists of other lengths, repeated rows, a batch that is not full; also in other company, in processes, in pieces"
    rows = [torch.randint(500, (n,), generator=torch.Generator().manual_seed(n)) for n in (200,123,121,64)]
    kw = dict(seed=5, epochs=3, size=60, opt=adam(1e-2, fused=True))
    ens = fit_members(make, a, [(r,[]) for r in rows], **kw)
    for i,r in enumerate(rows): assert_close(predict(ens, a)[i], predict(loop(make, a, r, i, 5, 3, 60, steps=4), a), rtol=0, atol=1e-10)
    for other in (dict(members=[2,1]), dict(memory=1, members=[2,1]), dict(jobs=2, members=[2,1]), dict(trim=False, members=[2,1])):
        assert_close(predict(fit_members(make, a, [(r,[]) for r in rows], **kw, **other), a), predict(ens, a)[[2,1]], rtol=0, atol=1e-10)

def test_single_precision():
    a = flat.to(torch.float32)
    ens = fit_ensemble(chain, a, 4, epochs=5, size=100, opt=adam(1e-2))
    exact = fit_ensemble(chain, flat, 4, epochs=5, size=100, opt=adam(1e-2))
    assert_close(predict(ens, a).double(), predict(exact, flat), rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('act', [k.__name__ for k in slopes])
@pytest.mark.parametrize('bias', (True, False))
def test_chain(act, bias):
    "The way back by hand against autograd, for every activation"
    net = nn.Sequential(Scaler().fit(torch.randn(50, 4, generator=g)*3+1), nn.Linear(4, 6, bias=bias), getattr(nn, act)(), nn.Sequential(nn.Linear(6, 5), getattr(nn, act)()), nn.Linear(5, 2, bias=bias)).double()
    e = Ensemble(net, 3)
    for p in e.stack: p.data += .2*torch.randn(p.shape, generator=g, dtype=p.dtype)
    x, w = torch.randn(3, 7, 4, generator=g, dtype=torch.float64), torch.randn(7, 2, generator=g, dtype=torch.float64)
    f = lambda out: (w*out.sin()).sum((1,2))
    got = []
    for way,more in ((_Chain(*_layers(e.net)),()), (_Any(e.net),({},))):
        way.backward(e.stack, x, partial(_judge, f), *more)
        got.append([p.grad.clone() for p in e.stack])
    nets = [e[i] for i in range(3)]
    exact = [torch.autograd.grad(f(m(x[i])[None]).sum(), list(m.parameters())) for i,m in enumerate(nets)]
    for a,b,c in zip(*got, zip(*exact)): assert_close(a, torch.stack(c), rtol=0, atol=1e-12); assert_close(b, a, rtol=0, atol=1e-12)
    assert_close(e(x[0]), torch.stack([m(x[0]) for m in nets]), rtol=0, atol=1e-12)

def test_not_a_chain():
    shared = nn.Linear(3, 3)
    hooked = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    hooked[0].register_forward_hook(lambda m,i,o: 2*o)
    class Own(nn.Sequential):
        def forward(self, x): return 2*super().forward(x)
    x = torch.randn(6, 3, generator=g)
    for net in (nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(3, 1)), hooked, Own(nn.Linear(3, 1)), nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 1)), nn.Sequential(nn.ReLU())):
        assert _layers(net) is None
        if len(list(net.parameters())): assert_close(Ensemble(net, 2)(x)[1], net(x)[:,0])

def test_frozen():
    def half():
        net = chain()
        net[0].requires_grad_(False)
        return net
    ens, start = fit_ensemble(half, flat, 3, epochs=2), [half() for _ in range(3)]
    for i in range(3): torch.manual_seed(generator(0, name=f'start {i}').initial_seed()); start[i] = half()
    for k,same in ((0,True), (1,True), (2,False)): assert torch.equal(ens.stack[k], torch.stack([list(n.double().parameters())[k] for n in start]))==same
    assert not ens[0][0].weight.requires_grad and ens[0][2].weight.requires_grad

class Power(Exception): pass
calls, stop = [0], [-1]
def interrupted(out, batch):
    calls[0] += 1
    if calls[0]==stop[0]: raise Power
    return bce(out, batch)

@pytest.mark.parametrize('memory', (None, 1))
@pytest.mark.parametrize('patience', (None, 2))
def test_resume(tmp_path, memory, patience):
    "Stopped at every epoch in turn, the same to the last bit"
    def fit(out): return fit_ensemble(chain, flat[:150], 3, valid=.3, epochs=6, size=40, patience=patience, memory=memory, loss=interrupted, every=0., out=out, opt=adam(2e-2, fused=True, decay=.9))
    calls[0] = 0
    straight = fit(None)
    total = calls[0]
    for at in range(5, total, 7):
        calls[0], stop[0] = 0, at
        with pytest.raises(Power): fit(tmp_path/str(at))
        stop[0] = -1
        again = fit(tmp_path/str(at))
        assert all(map(torch.equal, straight.stack, again.stack)) and torch.equal(straight.log.best, again.log.best)
        assert_close(straight.log.valid, again.log.valid, rtol=0, atol=0, equal_nan=True)
    calls[0] = 0
    fit(tmp_path/str(at))
    assert not calls[0], 'a finished training was done again'

def test_resume_another_network(tmp_path):
    "Not with another activation, nor with another scaler"
    def go(act='ReLU', scale=1., out=None): return fit_ensemble(lambda: nn.Sequential(Scaler().fit(flat.x*scale), mlp(5, 6, 1, act=act)), flat, 2, epochs=1, out=out)
    go(out=tmp_path)
    go(out=tmp_path)
    for other in (dict(act='Tanh'), dict(scale=2.)):
        with pytest.raises(ValueError, match='network'): go(**other, out=tmp_path)

def test_stopping():
    "Each member as it would stop alone; min_delta counts"
    kw = dict(valid=.3, epochs=60, size=40, opt=adam(2e-2, fused=True), patience=4)
    ens = fit_ensemble(chain, flat[:150], 6, **kw)
    from hepebm.nn.ensembles import _Splits
    splits = _Splits(flat.label[:150], [torch.arange(150)]*6, .3, True, 0)
    for i in (0,3,5):
        one = fit_members(chain, flat[:150], splits, members=[i], epochs=60, size=40, opt=kw['opt'], patience=4)
        assert one.log.best[0]==ens.log.best[i]
        assert_close(predict(one, flat)[0], predict(ens, flat)[i], rtol=0, atol=1e-9)
    ends = (~ens.log.valid.isnan()).sum(1)
    assert len(ends.unique())>1
    for i in range(6):
        assert_close(nn.functional.binary_cross_entropy_with_logits(predict(ens, flat[splits[i][1]])[i], flat.label[splits[i][1]].double()), ens.log.valid[i].nan_to_num(9).min())
    assert ((~fit_ensemble(chain, flat[:150], 6, **kw, min_delta=9.).log.valid.isnan()).sum(1)==5).all()

def test_seeds():
    x = flat.x
    a, b, c = (fit_ensemble(chain, flat, 2, epochs=1, seed=s)(x) for s in (1,1,2))
    assert torch.equal(a, b) and (a-c).abs().max()>.01 and (a[0]-a[1]).abs().max()>.01
    d, e = (fit_ensemble(chain, flat, 2, epochs=1, seed=torch.Generator().manual_seed(3))(x) for _ in range(2))
    assert torch.equal(d, e)
    before = torch.get_rng_state()
    fit_ensemble(chain, flat, 2, epochs=1)
    assert torch.equal(before, torch.get_rng_state())
    same = fit_ensemble(chain, flat, 2, epochs=1, bootstrap=False)
    assert (same(x)[0]-same(x)[1]).abs().max()>1e-3

@pytest.mark.parametrize('n,k', ((500,5), (7,7), (10,3), (501,2)))
def test_folds(n, k):
    a = Arrays(label=(torch.rand(n, generator=g)<.3).long(), x=torch.zeros(n, 1))
    parts = folds(a, k, seed=3)
    assert torch.equal(torch.cat([t for _,t in parts]).sort().values, torch.arange(n))
    sizes, signal = zip(*((len(t), int(a.label[t].sum())) for _,t in parts))
    assert max(sizes)-min(sizes)<=1 and max(signal)-min(signal)<=1
    assert all(len(r)+len(t)==n and not set(r.tolist())&set(t.tolist()) for r,t in parts)

def test_cross_validate():
    cv = cross_validate(deep, sets, 4, valid=.2, patience=2, epochs=4, size=100)
    parts = folds(sets, 4, 0)
    for i,(_,rows) in enumerate(parts):
        assert (cv.fold[rows]==i).all()
        assert_close(cv.score[rows], predict(cv.ensemble, sets[rows])[i], rtol=0, atol=1e-12)

def test_saved(tmp_path):
    ens = fit_ensemble(deep, sets, 3, epochs=1)
    save_model(tmp_path/'m', ens)
    assert torch.equal(predict(load_model(tmp_path/'m'), sets), predict(ens, sets))
    assert torch.equal(predict(copy.deepcopy(ens)[1], sets), predict(ens[1], sets))

def test_several_outputs():
    loss = lambda out, batch: nn.functional.cross_entropy(out.movedim(-1, 1), batch.label, reduction='none')
    ens = fit_ensemble(lambda: mlp(5, 8, 3), flat, 2, epochs=3, loss=loss, opt=adam(1e-2))
    assert predict(ens, flat).shape==(2,500,3) and predict(ens[0], flat).shape==(500,3)
    assert auc(predict(ens, flat)[0,:,1]-predict(ens, flat)[0,:,0], flat.label)>.8

def test_bad_input():
    scaled = iter((1.,2.,3.))
    def other_buffers():
        s = Scaler().fit(flat.x*next(scaled))
        return nn.Sequential(s, nn.Linear(5, 1))
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.l = nn.Linear(5, 1)
        def forward(self, x, mass): return self.l(x)*mass[:,None]
    for f,e,text in ((lambda: fit_ensemble(other_buffers, flat, 2, epochs=1), ValueError, 'differ in a buffer'),
        (lambda: fit_ensemble(lambda: nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)), flat, 2), ValueError, 'running averages'),
        (lambda: fit_ensemble(Two, flat, 2), KeyError, 'mass'),
        (lambda: fit_ensemble(chain, flat.assign(weight=-torch.ones(500)), 2), ValueError, 'not negative'),
        (lambda: fit_ensemble(chain, flat.assign(x=flat.x/0), 2), ValueError, 'NaN'),
        (lambda: fit_ensemble(chain, flat, 2, valid=1.), ValueError, 'valid'),
        (lambda: fit_ensemble(chain, flat, 2, patience=1), ValueError, 'validation rows'),
        (lambda: fit_members(chain, flat, [([],[])]), ValueError, 'no row'),
        (lambda: fit_ensemble(chain, flat, 2, loss=lambda o,b: o*float('nan')), FloatingPointError, 'member 0'),
        (lambda: member_interval(auc, torch.zeros(1,500), flat.label), ValueError, 'at least two'),
        (lambda: folds(flat, 1), ValueError, 'k=1')):
        with pytest.raises(e, match=text): f()

def test_interval():
    "Members that are noise: the two parts of the deviation, and the whole, from what is known"
    rng = np.random.default_rng(0)
    truth, scores = rng.normal(size=400), rng.normal(size=(60,1))*.3+np.zeros((60,400))
    mean = lambda s, y: float((s+y).mean())
    i = member_interval(mean, scores, truth, n=3000)
    assert abs(i.members/scores[:,0].std()-1)<1e-9 and abs(i.test/(truth.std()/20)-1)<.05
    assert abs(i.std/np.hypot(i.members, i.test)-1)<.02 and abs((i.high-i.low)/2/i.std-1)<.1
    assert i.low<i.value<i.high and abs(i.value-truth.mean()-scores.mean())<1e-9

@pytest.mark.parametrize('n', (60, 120, 1200))
def test_few_replicas(n):
    "The part from the test rows does not shrink where each member has few replicas"
    truth, scores = np.random.default_rng(0).normal(size=400), np.zeros((60,400))
    assert abs(member_interval(lambda s, y: float((s+y).mean()), scores, truth, n=n).test/(truth.std()/20)-1)<.2

@pytest.mark.long
def test_coverage():
    "The 68 % interval of one data set holds the mean over many in about 68 % of the cases; the published one hardly ever"
    def world(n, seed):
        h = torch.Generator().manual_seed(seed)
        y = torch.arange(n)%2
        return Arrays(x=torch.randn(n, 5, generator=h)+.5*y[:,None]*torch.tensor([1.,.5,0,0,0]), label=y)
    kw = dict(epochs=12, size=100, opt=adam(5e-3, fused=True))
    small = lambda: mlp(5, 12, 12, 1)
    found = [member_interval(auc, fit_ensemble(small, world(300, i), 30, seed=i, **kw)(world(300, 999+i).x), world(300, 999+i).label) for i in range(60)]
    truth = np.mean([f.value for f in found])
    inside = np.mean([abs(f.value-truth)<f.std for f in found])
    naive = np.mean([abs(f.value-truth)<f.members/30**.5 for f in found])
    assert .55<inside<.9 and naive<.25, (inside, naive)

def test_dask():
    "Groups of members on a Dask cluster give what one process gives"
    distributed = pytest.importorskip('distributed')
    from joblib import parallel_config
    make = lambda: mlp(5, 8, 8, 1) # by value: a worker does not know this file
    one = fit_ensemble(make, flat[:150], 4, epochs=2)
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None), parallel_config(backend='dask'): many = fit_ensemble(make, flat[:150], 4, epochs=2, jobs=2)
    for p,q in zip(one.stack, many.stack): assert torch.equal(p, q)
