"Energies, samplers and objectives beyond what their notebooks show: resuming, exhaustive kernels, ranks"
import copy
from functools import partial
import pytest, torch
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, adam, fit, load_model, save_model
from hepebm.ebm.energies import MLPEnergy, Quadratic, asks, closed_form, forces, given
from hepebm.ebm.objectives import check_objective, denoising_sm, energy_discrepancy, hutchinson_sm, Jarzynski, MLE, NCE, NormalNoise, recipes
from hepebm.ebm.samplers import check_kernel, generator, hmc, jump, langevin, mala, nuts, parallel_tempering, Pool, reflect, run, start, tune
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

@pytest.mark.parametrize('net', [MLPEnergy(2, 8, act='GELU'), MLPEnergy(2, 8, fourier=3, base=2.), Quadratic([[2.,.5],[.5,1.]]), DeepSet(2, 8, context=1, pool='mean', act='Tanh'), SetTransformer(2, 8, context=1)], ids=lambda o: type(o).__name__)
def test_closed_forms_follow_their_networks(net):
    "Looked at once, then followed through weights that are changed, replaced and made double; a hook is seen by who looks anew"
    a, net = jets(8), copy.deepcopy(net)
    x, E = a.x if 'mask' in asks(net) else a.x[:,0], given(net, a)
    force, other = forces(E), copy.deepcopy(net)
    for p in other.parameters(): p.data.mul_(1.3)
    def same(f, g): return all(torch.allclose(u, v, rtol=1e-5, atol=1e-6) for u,v in zip(f(x), g(x)))
    old, tape = force(x), forces(lambda x: E(x))
    assert closed_form(E) and same(force, tape)
    net.load_state_dict(other.state_dict(), assign=True)
    assert same(force, tape) and not same(force, lambda x: old)
    net.double()
    if x is a.x: E.keywords['context'] = a.context.double()
    x = x.double()
    assert same(forces(E), tape) and force(x)[1].dtype==torch.float64
    net.register_forward_hook(lambda m, i, o: 2*o)
    assert closed_form(E) is None and same(forces(E), tape)

exact = {'mala': partial(mala, step=.2), 'mala mass': partial(mala, step=.2, mass=torch.tensor(2.)), 'hmc': partial(hmc, step=.35, leaps=7), 'hmc jitter': partial(hmc, step=.5, leaps=4, jitter=.3)}

@pytest.mark.long
@pytest.mark.parametrize('name', exact)
def test_kernels_long(name):
    "Ten seeds, no allowance for bias"
    for seed in range(10): check_kernel(exact[name], seed=seed, tol=0, n=10_000, steps=60)

clever = {'nuts': partial(nuts, warm=60), 'nuts dense': partial(nuts, warm=60, mass='dense'), 'tuned hmc': tune(partial(hmc, leaps=5, jitter=.3), 100), 'tuned mala': tune(mala, 100, mass='dense'),
    'tempering': lambda E: parallel_tempering(partial(mala, step=.2), E, [1.,2.,5.]), 'tuned tempering': lambda E: parallel_tempering(partial(mala, step=.2), E, [1.,2.,5.], warm=60)}

@pytest.mark.long
@pytest.mark.parametrize('name', clever)
def test_clever_kernels_long(name):
    "Kernels that tune themselves, frozen: three seeds, no allowance for bias, and chains from far out agree"
    for seed in range(3): check_kernel(clever[name], seed=seed, steps=30, rhat=1.01)

def test_langevin_bias_is_linear():
    "Unadjusted Langevin is too wide by half of step times precision; twice the step, twice the bias"
    off = []
    for step in (.1, .2, .4):
        s = run(langevin(Quadratic(1.), step), start(Quadratic(1.), torch.randn(400_000, 1, generator=generator(0)), 1), 40)
        off.append(s.x.var().item()-1)
        assert abs(s.x.var().item()-1/(1-step/2)) < 4*s.x.var().item()*(2/400_000)**.5
    assert 1.8 < off[1]/off[0] < 2.4

def test_dense_mass_survives_rounding():
    "Chains on a line a million times as long as it is wide: their covariance in single precision has no root"
    E = lambda x: (x[:,0]-x[:,1]).square()*1e6 + x.sum(1).square()*1e-8
    x = 3e3*torch.randn(64, 1, generator=generator(0)).expand(64, 2)
    with pytest.raises(RuntimeError): torch.linalg.cholesky(torch.cov(x.T))
    s = run(tune(mala, 40, mass='dense')(E), start(E, x, 0), 60)
    assert s.x.isfinite().all() and (s.x!=x).any() and s.memo.root.value.isfinite().all()

def test_leapfrog_error_is_quadratic():
    "Half the step at the same length of the trajectory, a quarter of the error in the energy"
    from hepebm.ebm.samplers import leapfrog
    E, x, v = Quadratic(torch.tensor([[2.,.5],[.5,1.]])).double(), *(torch.randn(1000, 2, generator=generator(i), dtype=torch.float64) for i in (0,1))
    from hepebm.ebm.energies import energy_grad
    e,g = energy_grad(E, x)
    def error(step):
        _,w,f,_ = leapfrog(E, x, v, g, step, round(1.6/step))
        return (f+w.square().sum(1)/2-e-v.square().sum(1)/2).abs().mean().item()
    assert 3.8 < error(.1)/error(.05) < 4.2 and 3.8 < error(.05)/error(.025) < 4.2

def test_wrong_kernels_are_rejected():
    "A forgotten half of the way back, momenta left out of the acceptance, a swap without its sign"
    from hepebm.ebm import samplers as S
    def no_way_back(E, step):
        def kernel(s):
            s = S._here(E, s); z = S._noise(s); x = s.x-step*s.grad+(2*step)**.5*z
            return S._metropolis(s, x, *S._evaluate(E, x, s.mask), s.energy-E(x))
        return kernel
    def no_momenta(E, step, leaps):
        def kernel(s):
            s = S._here(E, s); x,_,e,g = S.leapfrog(E, s.x, S._noise(s), s.grad, step, leaps)
            return S._metropolis(s, x, e, g, s.energy-e)
        return kernel
    for make in (partial(no_way_back, step=.2), partial(no_momenta, step=.5, leaps=3), lambda E: hmc(lambda x: 1.05*E(x), .3, 4)):
        with pytest.raises(AssertionError): check_kernel(make)

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

def test_annealing_is_unbiased():
    "The mean of exp(log Z) over 40 runs is Z, and the stated error is their scatter"
    import math
    from hepebm.ebm.diagnostics import ais_log_z
    A = torch.tensor([[2.,.7],[.7,1.]])
    base = NormalNoise(3*torch.randn(20_000, 2, generator=generator(0)))
    runs = [ais_log_z(Quadratic(A), base, 400, 10, seed=s) for s in range(40)]
    z = torch.tensor([r.value for r in runs]) - math.log(2*math.pi) + A.logdet()/2
    assert abs(z.exp().mean()-1) < 4*z.exp().std()/40**.5
    assert .6 < z.std()/(sum(r.error for r in runs)/40) < 1.5

@pytest.mark.parametrize('name', ['exact','nce','discrepancy','persistent','jarzynski','cd','shortrun','denoising','sliced','hutchinson'])
def test_recipes_resume(name, tmp_path):
    "Every recipe is an objective, and goes on to the same weights after it was stopped"
    from hepebm.data.toys import toys
    x = toys['moons'].sample(500, 0)
    def make(): return recipes(x, .2, [[-4,4],[-4,4]])[name]()
    def net(): torch.manual_seed(0); return MLPEnergy(2, 8, fourier=4, base=1.5).fit(x)
    check_objective(make(), net(), dict(x=x[:64]))
    def train(out, *epochs):
        for n in epochs: E = net(); fit(Task(E, make(), adam(1e-3)), Arrays(x=x[:192]), epochs=n, size=64, out=out)
        return E.state_dict()
    whole, parts = train(tmp_path/'a', 3), train(tmp_path/'b', 1, 3)
    assert all(torch.equal(whole[k], v) for k,v in parts.items())

def test_jump_with_masks():
    "Offers leave padding alone, and the law of sets of different sizes too"
    mask = torch.arange(4) < torch.tensor([1,2,4]).repeat(600)[:,None]
    base = NormalNoise(1.5*torch.randn(1800, 4, 1, generator=generator(0)), mask)
    E = given(lambda x, mask: (x.square().sum(-1)*mask).sum(1)/2, dict(mask=mask))
    s = start(E, torch.randn(1800, 4, 1, generator=generator(1))*mask[...,None], 2, mask)
    s = run(jump(partial(mala, step=.05), base)(E), s, 60)
    assert (s.x[~mask]==0).all()
    for n in 1,2,4:
        v = s.x[mask.sum(1)==n][:,:n].square()
        assert abs(v.mean()-1) < 5*2**.5/v.numel()**.5

def test_walkers_are_drawn_by_weight():
    "`Jarzynski.sample` gives plain samples of the model, whatever the weights"
    o = Jarzynski(partial(mala, step=.1), 4000, base=NormalNoise(2*torch.randn(10_000, 1, generator=generator(0))), n=1, ess=.01)
    E = Quadratic(1.)
    for _ in range(20): o(E, dict(x=torch.randn(64, 1)))
    x = o.sample(E, dict(x=torch.zeros(4000, 1)))[0]['x']
    assert abs(x.var()-1)<.1 and abs(x.mean())<.08

class Stop:
    "A view that breaks off a training"
    def __init__(self, after): self.left = after
    def update(self, **frame):
        self.left -= 1
        if not self.left: raise KeyboardInterrupt

@pytest.mark.parametrize('kw', [dict(net='mlp'), dict(net='mlp', ema=None, kl=True), dict(net='deepset', hmc=True, step=.05), dict(width=8, heads=2, frame='axis', warm=0, step=.1, epsilon=.005, fresh=.1)], ids=['mlp','mlp-kl','hmc','cold'])
def test_jets_resume(kw, tmp_path):
    "Broken off in the warm start or later and begun again, a jet energy ends with the same weights and chains; begun once more, it stays as it is"
    from hepebm.core.training import Watch
    from hepebm.data.samples import sample
    from hepebm.ebm.jets import jet_ebm
    jets = sample('jets', 'train')[:4000]
    jets = jets[jets.label==0][:150]
    train = lambda out, **more: jet_ebm(jets, **{**dict(updates=7, warm=3, pool=32, size=16, steps=3, last=2, width=16, bar=None, checkpoint_every=1), **kw, **more}, out=tmp_path/out)
    whole = train('whole').state_dict()
    for after in (2, 6):
        with pytest.raises(KeyboardInterrupt): train(f'part{after}', callbacks=[Watch(Stop(after), lambda run: {}, every=1)])
        for _ in range(2):
            for k,v in train(f'part{after}').state_dict().items(): assert torch.equal(v, whole[k]), k
