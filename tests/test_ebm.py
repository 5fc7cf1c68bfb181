"Energies, samplers and objectives beyond what their notebooks show: resuming, exhaustive kernels, ranks"
from functools import partial
import pytest, torch
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, adam, fit, load_model, save_model
from hepebm.ebm.energies import MLPEnergy, Quadratic, given
from hepebm.ebm.objectives import MLE, NCE, NormalNoise, denoising_sm, energy_discrepancy, hutchinson_sm
from hepebm.ebm.samplers import Pool, check_kernel, generator, hmc, langevin, mala, reflect, run, start
from hepebm.nn.sets import DeepSet, SetTransformer

def jets(n, slots=6, seed=0):
    g = generator(seed)
    mask = torch.arange(slots) < torch.randint(1, slots+1, (n,1), generator=g)
    return Arrays(x=torch.randn(n,slots,2, generator=g)*mask[...,None], mask=mask, context=mask.sum(1, keepdim=True)/slots)
def prior(n, g):
    mask = torch.arange(6, device=g.device) < torch.randint(1, 7, (n,1), generator=g, device=g.device)
    return dict(x=torch.randn(n,6,2, generator=g, device=g.device)*mask[...,None], mask=mask, context=mask.sum(1, keepdim=True)/6)

objectives = {'pool': lambda a: MLE(partial(langevin, step=.01), 3, Pool(prior, 200), reg=.1, noise=.01), 'data': lambda a: MLE(partial(mala, step=.01), 2),
    'dsm': lambda a: denoising_sm((.1,.3)), 'nce': lambda a: NCE(NormalNoise(a.x, a.mask), 2), 'ed': lambda a: energy_discrepancy(.3, 4), 'sm': lambda a: hutchinson_sm}

@pytest.mark.parametrize('name', objectives)
def test_resume(name, tmp_path):
    "Stopped after one epoch and started again, training ends with the same weights, chains and constants"
    a, valid = jets(64), jets(32, seed=1)
    def train(out, *epochs):
        for n in epochs:
            torch.manual_seed(0)
            net, o = DeepSet(2, 8, context=1), objectives[name](a)
            log = fit(Task(net, o, adam(1e-2)), a, valid, epochs=n, size=32, out=out)
        return {**net.state_dict(), **(o.state_dict() if isinstance(o, torch.nn.Module) else {})}, log
    (one,log), (two,_) = train(tmp_path/'one', 3), train(tmp_path/'two', 1, 3)
    def same(u, v): return torch.equal(u, v) if isinstance(u, torch.Tensor) else u==v if not isinstance(u, (dict,tuple,list)) else all(same(u[k], v[k]) for k in (u if isinstance(u, dict) else range(len(u))))
    assert same(one, two)
    if name=='pool': assert one['pool._extra_state']['age'].max()>1 and 'cd' in log and '_age' in log
    if name=='nce': assert one['log_z']!=0

@pytest.mark.parametrize('net', [DeepSet(2, 8, context=1), SetTransformer(2, 8, 1, 2, context=1, pool='mean'), MLPEnergy(3, 8), Quadratic([[2.,.5],[.5,1.]])], ids=lambda o: type(o).__name__)
def test_file(net, tmp_path):
    "A model in its folder is the same function"
    save_model(tmp_path/'m', net)
    a = jets(8)
    x = a.x if isinstance(net, (DeepSet, SetTransformer)) else torch.randn(8, 3 if isinstance(net, MLPEnergy) else 2)
    assert torch.equal(given(load_model(tmp_path/'m'), a)(x), given(net, a)(x))

exact = {'mala': partial(mala, step=.2), 'mala by feature': partial(mala, step=torch.tensor([.3,.1])), 'hmc': partial(hmc, step=.35, leaps=7), 'hmc jitter': partial(hmc, step=.5, leaps=4, jitter=.3)}

@pytest.mark.long
@pytest.mark.parametrize('name', exact)
def test_kernels_long(name):
    "Ten seeds, no allowance for bias"
    for seed in range(10): check_kernel(exact[name], seed=seed, tol=0, n=10_000, steps=60)

@pytest.mark.long
@pytest.mark.parametrize('name', exact)
def test_ranks_long(name):
    "The rank of an exact draw among states of the chain it starts is uniform if the kernel keeps its law and is reversible"
    E, n, L = lambda x: .5*(x@torch.tensor([[1.5625,-.9375],[-.9375,1.5625]], dtype=x.dtype)*x).sum(-1), 20_000, 9
    x = torch.randn(n, 2, generator=generator(3), dtype=torch.float64)@torch.linalg.cholesky(torch.tensor([[1.,.6],[.6,1.]], dtype=torch.float64)).T
    k = torch.randint(L+1, (n,), generator=generator(4))
    kernel, xs = exact[name](E), [x]
    s = start(E, x, 5)
    for _ in range(L): s = run(kernel, s, 3); xs.append(s.x)
    path = torch.stack(xs)[...,0]
    # the draw sits at a random place of the chain: k steps back and L-k forward are alike for a reversible kernel
    back = start(E, x, 6)
    other = [x]
    for _ in range(L): back = run(kernel, back, 3); other.append(back.x)
    past = torch.stack(other)[...,0]
    i = torch.arange(L+1)[:,None]
    both = torch.where(i<=k, past.gather(0, (k-i).clamp(min=0)), path.gather(0, (i-k).clamp(min=0)))
    rank = (both < x[:,0]).sum(0)
    counts = torch.bincount(rank, minlength=L+1).double()
    assert ((counts-n/(L+1))**2/(n/(L+1))).sum() < 30  # chi2 with 9 degrees of freedom: p = 4e-4

def test_reflect():
    "Mirrors are the identity inside, and periodic with twice the width"
    f, x = reflect(-2., 1.), torch.linspace(-20, 20, 4001, dtype=torch.float64)
    inside = (x>=-2)&(x<=1)
    torch.testing.assert_close(f(x)[inside], x[inside])
    torch.testing.assert_close(f(x), f(x+6))
    assert (f(x)>=-2-1e-12).all() and (f(x)<=1+1e-12).all()
