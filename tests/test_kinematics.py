"Kinematics against `vector`, FastJet and brute force, on random jets and on corner cases."
import math
import numpy as np, pytest, torch
from hepebm.data.kinematics import delta_r, jet, observables, p4, ptetaphim, rapidity, relative, subjets, wrap

def jets(n, P, seed, width=.25, centre=2.5, dtype=torch.float64):
    "Three-pronged jets of 1 to P particles, photons and pions"
    g = torch.Generator().manual_seed(seed)
    u = lambda *s: torch.rand(*s, generator=g, dtype=torch.float64)
    z = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)*width
    prong = (u(n,P)*3).long()
    eta,phi = ((2*u(n,1)-1)*c + z(n,3).gather(1, prong) + .4*z(n,P) for c in (centre, math.pi))
    return p4(-40*u(n,P).log()+.5, eta, phi, .1396*(u(n,P)<.6)).to(dtype), torch.arange(P) < (1+P*u(n,1)).long()

def brute(p, n):
    "Exclusive kT by the definition, on a list of (E, px, py, pz)"
    p = [np.array(q) for q in p]
    y = lambda q: .5*math.log((q[0]+q[3])/(q[0]-q[3]))
    def dist(a, b): return min(a[1]**2+a[2]**2, b[1]**2+b[2]**2)*((y(a)-y(b))**2 + (abs(math.atan2(a[2],a[1])-math.atan2(b[2],b[1])+3*math.pi)%(2*math.pi)-math.pi)**2)
    while len(p)>n:
        _,i,j = min((dist(p[i],p[j]),i,j) for i in range(len(p)) for j in range(i))
        p = [q for k,q in enumerate(p) if k not in (i,j)] + [p[i]+p[j]]
    return np.array(sorted(p, key=lambda q: -math.hypot(q[1],q[2])))

def fastjet_observables(p, mask, R):
    ak,fastjet = pytest.importorskip('awkward'), pytest.importorskip('fastjet', reason='FastJet is missing: pip install "hepebm[hep]"')
    flat = p[mask].numpy()
    a = ak.unflatten(ak.zip(dict(zip(('E','px','py','pz'), flat.T))), mask.sum(1).numpy())
    seq = fastjet.ClusterSequence(a, fastjet.JetDefinition(fastjet.kt_algorithm, R))
    taus = ak.to_numpy(seq.njettiness(measure_definition='NormalizedMeasure', axes_definition='KT_Axes', njets=[1,2,3], beta=1., R0=R))
    rows = []
    for part in np.split(flat, mask.sum(1).cumsum(0).numpy()[:-1]):
        qs = [fastjet.PseudoJet(*q[1:], q[0]) for q in part.tolist()]
        J = sum(qs[1:], qs[0])
        rows.append([sum(q.perp()*q.delta_R(J) for q in qs)/J.perp(), J.m2(), J.perp(), J.E()**2])
    return taus, *np.array(rows).T

def check_fastjet(n, P, seed, R, **kw):
    p,mask = jets(n, P, seed, **kw)
    taus,girth,m2,pt,E2 = fastjet_observables(p, mask, R)
    o = observables(p, mask, R)
    for k in range(3): np.testing.assert_allclose(o[f'tau{k+1}'], taus[:,k], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(o.girth, girth, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(o.pt, pt, rtol=1e-12)
    assert (np.abs(o.mass.numpy()**2-m2)/E2).max() < 1e-13
    good = taus[:,1]>1e-6
    np.testing.assert_allclose(o.tau21[good], (taus[:,1]/np.where(taus[:,0]>0, taus[:,0], 1))[good], rtol=1e-8)
    np.testing.assert_allclose(o.tau32[good], (taus[:,2]/np.where(taus[:,1]>0, taus[:,1], 1))[good], rtol=1e-8)

def test_fastjet(): check_fastjet(300, 30, seed=5, R=1.)

@pytest.mark.long
@pytest.mark.parametrize('n,P,R,width,centre', [(10_000,40,.8,.25,2.5), (1000,128,1.,.3,2.5), (1000,20,.8,1.5,1.), (2000,6,.8,.02,4.)])
def test_fastjet_long(n, P, R, width, centre): check_fastjet(n, P, P, R, width=width, centre=centre)

@pytest.mark.parametrize('n', [1,2,3,5])
def test_subjets_by_definition(n):
    p,mask = jets(60, 12, seed=n)
    found = subjets(p, mask, n)
    for q,m,s in zip(p, mask, found):
        want = brute(q[m].tolist(), n)
        np.testing.assert_allclose(s[:len(want)], want, rtol=1e-9, atol=1e-9)
        assert not s[len(want):].any()

def test_vector():
    vector,rng,n = pytest.importorskip('vector'), np.random.default_rng(1), 20_000
    v = vector.array(dict(pt=rng.exponential(30, n)+.1, eta=rng.uniform(-5, 5, n), phi=rng.uniform(-math.pi, math.pi, n), mass=rng.uniform(.1, 200, n)))
    q = p4(*map(torch.tensor, (v.pt, v.eta, v.phi, v.mass)))
    np.testing.assert_allclose(q, np.stack([v.E, v.px, v.py, v.pz], 1), rtol=1e-10, atol=1e-10)
    got = ptetaphim(q)
    for a,b in zip(got[:3], (v.pt, v.eta, v.phi)): np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    assert (np.abs(got.m-v.mass)/v.E).max() < 1e-10
    np.testing.assert_allclose(rapidity(q), v.rapidity, atol=1e-10)
    np.testing.assert_allclose(delta_r(q[1:], q[:-1]), v[1:].deltaR(v[:-1]), atol=1e-10)
    np.testing.assert_allclose(wrap(got.phi[1:]-got.phi[:-1]), v[1:].deltaphi(v[:-1]), atol=1e-10)
    s = jet(q.reshape(200, 100, 4), torch.ones(200, 100).bool())
    V = [vector.array(dict(zip(('E','px','py','pz'), s.T.numpy())))]
    for a,b in zip(ptetaphim(s), (V[0].pt, V[0].eta, V[0].phi, V[0].mass)): np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)

def corner(rng, P):
    "A jet of P slots out of the cases that break naive formulas"
    kinds = ['zero','same','collinear','light','beam','soft','forward','plain','backward']
    base = p4(50., .3, 1., 0.)
    def one(kind):
        if kind=='zero': return torch.zeros(4)
        if kind=='same': return base
        if kind=='collinear': return base*rng.uniform(.01, 3)
        if kind=='light': return torch.tensor([*(q := rng.normal(size=3)*100), np.float32(np.sqrt((q.astype(np.float32)**2).sum()))]).roll(1)
        if kind=='beam': return torch.tensor([10., 0., 0., 10.*rng.choice([-1,1])])
        if kind=='soft': return p4(1e-12, .1, .2, 0.)
        if kind=='forward': return p4(rng.exponential(20), rng.choice([-8.,8.]), rng.uniform(-3, 3), .1396)
        if kind=='backward': return p4(50., .3, 1.-math.pi, 0.)
        return p4(rng.exponential(20), rng.normal(), rng.uniform(-9, 9), rng.exponential(1))
    some = rng.choice(kinds, rng.integers(1, 4))
    return torch.stack([one(rng.choice(some)).float() for _ in range(P)]), torch.tensor(rng.random(P)<rng.random())

def check_corner(seed, n, dtype):
    rng = np.random.default_rng(seed)
    p,mask = map(torch.stack, zip(*(corner(rng, 7) for _ in range(n))))
    p = torch.where(mask[...,None], p, torch.nan).to(dtype).requires_grad_()
    o = observables(p, mask)
    J = ptetaphim(jet(p, mask))
    for k,v in [(k, o[k]) for k in o.keys() if k!='n'] + [('relative', relative(p, mask)), ('subjets', subjets(p, mask)), *zip(J._fields, J)]:
        g, = torch.autograd.grad(v.sum(), p, retain_graph=True)
        assert v.isfinite().all() and g.isfinite().all() and not g[~mask].any(), k
    assert (o.n==mask.sum(1)).all()
    for k in range(1,4): assert not o[f'tau{k}'][o.n<=k].any()
    for k in o.keys(): assert (o[k]>=0).all()
    wide,more = torch.cat([p, torch.full((n,5,4), torch.nan, dtype=dtype)], 1), torch.cat([mask, torch.zeros(n,5).bool()], 1)
    for k in o.keys(): assert torch.equal(observables(wide, more)[k], o[k]), k

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_corners(dtype): check_corner(0, 200, dtype)

@pytest.mark.long
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('seed', range(1, 11))
def test_corners_long(seed, dtype): check_corner(seed, 2000, dtype)

def test_no_jets_and_no_particles():
    for shape in (0,5,4), (3,0,4), (0,0,4):
        o = observables(torch.zeros(shape), torch.zeros(shape[:2]).bool())
        assert len(o)==shape[0] and not any(v.any() for _,v in o.items())
        assert relative(torch.zeros(shape)).shape == (*shape[:2],3) and jet(torch.zeros(shape)).shape == (shape[0],4)

def test_wrong_input_is_named():
    for f in (jet, relative, observables, subjets):
        with pytest.raises(ValueError, match='last axis'): f(torch.zeros(2,3,5))
        with pytest.raises(ValueError, match='mask must be bool'): f(torch.zeros(2,3,4), torch.ones(2,3))

def test_chunks_agree():
    "More jets than one chunk holds give what each part gives"
    p,mask = jets(1200, 64, seed=3)
    whole,parts = observables(p, mask), [observables(p[i:i+100], mask[i:i+100]) for i in range(0, 1200, 100)]
    for k in whole.keys(): torch.testing.assert_close(whole[k], torch.cat([o[k] for o in parts]), rtol=1e-9, atol=1e-9)

@pytest.mark.parametrize('centre', [0., 2.5, 8.])
def test_float32(centre):
    "Massless particles as float32 holds them, against float64 on the same coordinates"
    g = torch.Generator().manual_seed(2)
    eta = centre + torch.randn(500, 30, generator=g, dtype=torch.float64)*.2
    pt,phi = -50*torch.rand(500, 30, generator=g, dtype=torch.float64).log()+1, torch.randn(500, 30, generator=g, dtype=torch.float64)*.2+3
    a,b = observables(p4(pt, eta, phi).float()), observables(p4(pt, eta, phi))
    for k in ('pt','mass','girth','tau1','tau2','tau3'): assert ((a[k]-b[k])/b[k]).abs().max() < 2e-5, k

def test_gradient_of_taus():
    "Axes move with the particles: derivatives against finite differences, float64"
    p,mask = jets(4, 6, seed=9)
    x = torch.stack(ptetaphim(p)[:3]).requires_grad_()
    f = lambda x: torch.stack([v for k,v in observables(p4(*x, .5), mask).items() if k!='n'], 1)
    assert torch.autograd.gradcheck(f, x)
