"EFPs against EnergyFlow, with fixed indices against the definition, and the table of graphs."
import itertools
import numpy as np, pytest, torch
from hepebm.data.kinematics import p4
from hepebm.nn.efps import BETAS, KAPPAS, efp_bank, efps, graphs

g = torch.Generator().manual_seed(0)
pt = torch.rand(30, 11, generator=g, dtype=torch.float64)**3*100
x = torch.randn(30, 11, 2, generator=g, dtype=torch.float64)*.3+torch.tensor([1.,3.])
mask = torch.rand(30, 11, generator=g)<.7
mask[:,0] = True
K4, K5 = (tuple(itertools.combinations(range(n), 2)) for n in (4,5))
K33 = tuple((a,b+3) for a in range(3) for b in range(3))

@pytest.mark.parametrize('kappa,beta,normed', ((1,1,True), (1,2,False), (2,.25,True), (-1,3,True), (0,1,True), (.5,4,False)))
def test_energyflow(kappa, beta, normed):
    ef = pytest.importorskip('energyflow')
    theirs = ef.EFPSet(('d<=',5), measure='hadr', kappa=kappa, beta=beta, normed=normed, coords='ptyphim')
    ref = theirs.batch_compute([torch.cat([p[m,None], y[m]], 1).numpy() for p,y,m in zip(pt, x, mask)], n_jobs=1)
    np.testing.assert_allclose(efps(pt, x, mask, graphs(5), kappa, beta, normed), ref, rtol=1e-10)

@pytest.mark.parametrize('measure,normed', (('hadr',True), ('hadr',False), ('hadrdot',True), ('ee',True), ('ee',False)))
def test_bank(measure, normed):
    "All published pairs of powers in one plan, massive particles, every measure"
    ef = pytest.importorskip('energyflow')
    v, n = p4(pt, x[...,0], x[...,1], .2*pt.sqrt()), 6
    z = v[...,0] if measure=='ee' else pt
    ours = efp_bank(z[:n], v[:n], mask[:n], graphs(4), normed=normed, measure=measure)
    events = [v[i][mask[i]].numpy() for i in range(n)]
    for i,k in enumerate(KAPPAS):
        for j,b in enumerate(BETAS):
            theirs = ef.EFPSet(('d<=',4), measure=measure, kappa=k, beta=b, normed=normed, coords='epxpypz').batch_compute(events, n_jobs=1)
            np.testing.assert_allclose(ours[:,i,j], theirs, rtol=1e-10)

def test_bank_fixed():
    "Graphs with a fixed index at several powers, as one at a time; gradients; a beta that is no fraction of the others; nothing to do"
    chosen, betas, kappas = [K5, K33, K5+((4,5),), K4+K4[:2], ((0,1),)], (.3,.6,1.), (-1.,1.,2.)
    ours = efp_bank(pt[:3], x[:3], mask[:3], chosen, kappas, betas)
    for i,k in enumerate(kappas):
        for j,b in enumerate(betas): np.testing.assert_allclose(ours[:,i,j], efps(pt[:3], x[:3], mask[:3], chosen, k, b), rtol=1e-12)
    few = pt[:2,:4].clone().requires_grad_(), x[:2,:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z,y: efp_bank(z, y, mask[:2,:4], graphs(3)[1:]+[K4], (.5,1.), (.5,1.,2.)), few)
    np.testing.assert_allclose(efp_bank(pt, x, mask, graphs(5), memory=9_000), efp_bank(pt, x, mask, graphs(5)), rtol=1e-12)
    assert efp_bank(pt[:0], x[:0], mask[:0], graphs(2)).shape==(0,6,6,5)

@pytest.mark.long
@pytest.mark.parametrize('d,n,p,jets', ((7,None,None,6), (7,7,1,6), (8,6,2,3)))
def test_energyflow_large(d, n, p, jets):
    "Sets in use, with the graphs that hold an index fixed"
    ef = pytest.importorskip('energyflow')
    sel = [('d<=',d)] + ([('n<=',n)] if n else []) + ([('p<=',p)] if p else [])
    theirs = ef.EFPSet(*sel, measure='hadr', coords='ptyphim')
    assert [tuple(map(tuple, o)) for o in theirs.graphs()] == graphs(d, n, p)
    ref = theirs.batch_compute([torch.cat([p[m,None], y[m]], 1).numpy() for p,y,m in zip(pt[:jets], x, mask)], n_jobs=1)
    np.testing.assert_allclose(efps(pt[:jets], x[:jets], mask[:jets], graphs(d, n, p)), ref, rtol=1e-10)

@pytest.mark.long
def test_table():
    "All 45,231 graphs are EnergyFlow's, in its order"
    ef = pytest.importorskip('energyflow')
    assert [tuple(map(tuple, o)) for o in ef.EFPSet(('d<=',10)).graphs()] == graphs(10)

@pytest.mark.parametrize('graph', (K5, K33, K5+((4,5),), tuple((a+s,b+s) for s in (0,3) for a,b in itertools.combinations(range(4), 2))), ids=('K5','K33','K5 and a leaf','two K4 at a vertex'))
def test_fixed(graph):
    "Graphs without a vertex of one or two neighbours: two nested fixed indices, a cut vertex"
    z,theta = pt[0,:3]/pt[0,:3].sum(),torch.cdist(x[0,:3], x[0,:3])
    n = 1+max(map(max, graph))
    i = torch.cartesian_prod(*[torch.arange(3)]*n)
    brute = (z[i].prod(1)*torch.stack([theta[i[:,u],i[:,v]] for u,v in graph], 1).prod(1)).sum()
    np.testing.assert_allclose(efps(pt[:1,:3], x[:1,:3], torch.ones(1,3).bool(), [graph])[0,0], brute, rtol=1e-12)
