"Cones and weights beyond what their notebook shows: random events by hand, files, gradients, empty events"
import math
import numpy as np, pytest, torch
from hepebm.core.arrays import Arrays
from hepebm.data.muons import read_muons, toy_muons, write_muons
from hepebm.data.samples import sample
from hepebm.muons.cones import PILEUP, RADII, ConeView, cone_distance, cone_sums, density_ratio, iso_features, isolation, particle_kinds, published_split, puppi_weight, side_weights, _alphas

def muons(n=30, dtype=torch.float64): return sample('muons', 'valid')[:n].to(dtype)

def by_hand(a, i, R, use=lambda p: 1.):
    ps = [dict(zip(a.features, row)) for row,m in zip(a.cands[i].tolist(), a.mask[i]) if m]
    return sum(p['pt']*use(p) for p in ps if math.hypot(p['deta'], p['dphi'])<R)

@pytest.mark.parametrize('seed', range(3))
def test_any_radii(seed):
    a, rng = muons(), np.random.default_rng(seed)
    radii = rng.uniform(.01, .6, 7).tolist()
    want = np.array([[by_hand(a, i, R)/a.pt[i,0].item() for R in radii] for i in range(30)])
    assert np.allclose(isolation(a, radii), want, rtol=1e-12, atol=1e-12)

@pytest.mark.parametrize('part,use', [('charged', lambda p: p['charge']!=0), ('neutral', lambda p: p['charge']==0)])
def test_parts(part, use):
    a = muons()
    want = np.array([[by_hand(a, i, R, use)/a.pt[i,0].item() for R in RADII] for i in range(30)])
    assert np.allclose(isolation(a, part=part), want, rtol=1e-10, atol=1e-12)

def test_drop_takes_tracks_of_others_away():
    a = muons()
    want = np.array([[by_hand(a, i, R, lambda p: p['charge']==0 or abs(p['dz'])<=2)/a.pt[i,0].item() for R in RADII] for i in range(30)])
    assert np.allclose(isolation(a, pileup='drop'), want, rtol=1e-10, atol=1e-12)

@pytest.mark.parametrize('pileup', PILEUP)
def test_empty_and_padding(pileup):
    "Nothing around a muon is nothing; what stands in the padding does not matter; order does not matter"
    a = muons()
    none = a.assign(mask=torch.zeros_like(a.mask))
    assert not isolation(none, pileup=pileup).any()
    junk = torch.where(a.mask[...,None], a.cands, 7.)
    assert torch.allclose(isolation(a.assign(cands=junk), pileup=pileup), isolation(a, pileup=pileup), atol=1e-12)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(isolation(a.assign(cands=a.cands[:,order], mask=a.mask[:,order]), pileup=pileup), isolation(a, pileup=pileup), atol=1e-10)

def test_puppi_ignores_the_chunk():
    a = muons(60)
    near = particle_kinds(a).charged
    assert torch.equal(_alphas(a, near, .3, size=7), _alphas(a, near, .3))

def test_gradient():
    a = muons(5)
    x = a.cands.clone().requires_grad_()
    g, = torch.autograd.grad(cone_sums(a.assign(cands=x), (.3,)).sum(), x)
    inside = (cone_distance(a)<.3) & a.mask
    assert torch.equal(g[...,0]==1, inside) and not g[...,1:].any()

def test_published_files(tmp_path):
    "What is written beside the particles as `iso` is what the cones are"
    pytest.importorskip('lmdb')
    a = toy_muons(40, seed=3)
    write_muons(tmp_path/'cms', a)
    b = read_muons(tmp_path/'cms')
    assert torch.allclose(b.iso, isolation(b), atol=1e-4)
    kinds = particle_kinds(b)
    assert not kinds.pileup.any() and torch.equal(kinds.charged | kinds.neutral, b.mask)
    assert torch.equal(kinds.charged[:,:a.mask.shape[1]], particle_kinds(a).charged[:,:128])
    with pytest.raises(ValueError, match='no dz'): isolation(b, pileup='puppi')

def test_charge_survives_the_published_layout(tmp_path):
    "Kinds of the shipped particles are written as PDG codes; numbers that are none are an error"
    pytest.importorskip('lmdb')
    a = sample('muons', 'valid')[:40]
    write_muons(tmp_path/'cms', a)
    b, before = read_muons(tmp_path/'cms'), particle_kinds(a)
    after, P = particle_kinds(b), a.mask.shape[1]
    assert torch.equal(after.charged[:,:P], before.charged | before.pileup) and torch.equal(after.neutral[:,:P], before.neutral) and after.charged.any()
    ids, q, kind = b.cands[:,:P,3][a.mask], *(a.cands[...,a.features.index(k)][a.mask] for k in ('charge','pid'))
    assert torch.equal(ids[kind==0], 211*q[kind==0]) and torch.equal(ids[kind==4], -13*q[kind==4]) and (ids[kind==2]==22).all()
    with pytest.raises(ValueError, match='PDG code'): particle_kinds(b.assign(cands=torch.where(b.cands.abs()>9, 3., b.cands)))

@pytest.mark.parametrize('n', (0, 19, -1))
def test_number_of_cones(n):
    with pytest.raises(ValueError, match='from 1 to 18'): iso_features(muons(), n)

@pytest.mark.parametrize('tail', ('power', 'exponential'))
def test_a_tail_keeps_its_weights(tail):
    "More events than kernels: no event has most of the weight, and as much is left as with a kernel for each"
    rng = np.random.default_rng(0)
    pt = lambda n, k: 25*(1+rng.pareto(k, n)) if tail=='power' else 25+rng.exponential(60/k, n)
    x, y = (np.c_[rng.uniform(-2, 2, n), pt(n, k)] for n,k in ((6000, 3), (6000, 4)))
    few, all_ = (density_ratio(x, y, most=m) for m in (1500, 6000))
    left = lambda r: r.sum()**2/(r**2).sum()/len(r)
    assert few.max()<20 and abs(left(few)/left(all_)-1)<.15 and np.corrcoef(few, all_)[0,1]>.9

def test_a_ratio_of_nothing():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match='leaves'): density_ratio(rng.normal(size=(3000,2)), rng.normal(5, .3, size=(3000,2)))

def test_ratio_is_the_ratio():
    "Where both densities are equal all weights are one, whatever the sizes"
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000,2)), rng.normal(size=(900,2))
    for kind in ('kde','trees'):
        r = density_ratio(x, y, kind)
        assert abs(r.mean()-1)<1e-9 and np.std(r)<.35

@pytest.mark.parametrize('which', ('none','same-sign','side'))
def test_weights(which):
    a = toy_muons(3000, seed=1)
    y = (torch.rand(3000, generator=torch.Generator().manual_seed(1))<.5).long()
    w = side_weights(a, y, which)
    assert abs(w.mean()-1)<1e-5 and abs(w[y==1].sum()-w[y==0].sum())<1e-1
    flat = w[(y==0) & (a.charge.prod(1)<0)] if which!='side' else w[y==1]
    assert flat.std()<1e-6*flat.mean()+1e-7

def test_split_covers():
    y = (torch.arange(611)%7==0).long()
    s = published_split(y)
    assert len(s.parts)==5
    seen = torch.cat([h for _,h in s.parts]+[s.test]).sort().values
    assert torch.equal(seen, torch.arange(611))
    for fit,held in s.parts: assert not (set(fit.tolist()) & (set(held.tolist()) | set(s.test.tolist())))

def test_view_of_files_without_charge(tmp_path):
    a = toy_muons(20, seed=3)
    bare = Arrays('pt deta dphi'.split(), **{k: v for k,v in a.items() if k!='cands'}, cands=a.cands[...,:3])
    view = ConeView(bare, 2)
    view.update(radius=.2)
    assert abs(view.views['sums'].frame['sums']['charged'][-1]-isolation(bare[2], (.2,)).item())<1e-5
