"EFPs against EnergyFlow, with fixed indices against the definition, and the table of graphs."
import itertools
import numpy as np, pytest, torch
from hepebm.nn.efps import efps, graphs

g = torch.Generator().manual_seed(0)
pt = torch.rand(30, 11, generator=g, dtype=torch.float64)**3*100
x = torch.randn(30, 11, 2, generator=g, dtype=torch.float64)*.3+torch.tensor([1.,3.])
mask = torch.rand(30, 11, generator=g)<.7
mask[:,0] = True

@pytest.mark.parametrize('kappa,beta,normed', ((1,1,True), (1,2,False), (2,.25,True), (-1,3,True), (0,1,True), (.5,4,False)))
def test_energyflow(kappa, beta, normed):
    ef = pytest.importorskip('energyflow')
    theirs = ef.EFPSet(('d<=',5), measure='hadr', kappa=kappa, beta=beta, normed=normed, coords='ptyphim')
    ref = theirs.batch_compute([torch.cat([p[m,None], y[m]], 1).numpy() for p,y,m in zip(pt, x, mask)], n_jobs=1)
    np.testing.assert_allclose(efps(pt, x, mask, graphs(5), kappa, beta, normed), ref, rtol=1e-10)

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

K5 = tuple(itertools.combinations(range(5), 2))
K33 = tuple((a,b+3) for a in range(3) for b in range(3))
@pytest.mark.parametrize('graph', (K5, K33, K5+((4,5),), tuple((a+s,b+s) for s in (0,3) for a,b in itertools.combinations(range(4), 2))), ids=('K5','K33','K5 and a leaf','two K4 at a vertex'))
def test_fixed(graph):
    "Graphs without a vertex of one or two neighbours: two nested fixed indices, a cut vertex"
    z,theta = pt[0,:3]/pt[0,:3].sum(),torch.cdist(x[0,:3], x[0,:3])
    n = 1+max(map(max, graph))
    i = torch.cartesian_prod(*[torch.arange(3)]*n)
    brute = (z[i].prod(1)*torch.stack([theta[i[:,u],i[:,v]] for u,v in graph], 1).prod(1)).sum()
    np.testing.assert_allclose(efps(pt[:1,:3], x[:1,:3], torch.ones(1,3).bool(), [graph])[0,0], brute, rtol=1e-12)
