"""Samplers on one thread against public torch libraries, in turn, by CPU time: `python bench/samplers.py [rounds] [speed|gradients|efficiency ...]`

Speed: steps a second of a 2-128-128-1 SiLU network in float32. Gradients: closed forms against autograd. Efficiency: effective samples a CPU second of 64 chains x 400 draws after 100, of which those of
means count, by ArviZ. The best step of a grid is chosen on two seeds (NUTS: one) and measured on others (NUTS: three); a rate counts only where means and deviations of all rounds' draws together are within 10 % of the truth.
Each round draws its own starting points: exact ones, but for the ring, where all chains begin in one mode.
"""
import os, platform, sys, time, warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
from functools import partial
from importlib.metadata import version
import ebm.samplers as peer, numpy as np, torch
from torchebm.core import BaseModel
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from hepebm.data.toys import mixture, toys
from hepebm.ebm.diagnostics import ess, rhat
from hepebm.ebm.energies import MLPEnergy, energy_grad, given
from hepebm.ebm.samplers import generator, hmc, langevin, mala, nuts, parallel_tempering, run, start, tune
from hepebm.nn.sets import DeepSet, SetTransformer

torch.set_num_threads(1)
warnings.filterwarnings('ignore', 'invalid value', RuntimeWarning, 'arviz')  # of chains that stand still

class Theirs(BaseModel):
    "An energy as torchebm wants it"
    def __init__(self, E): super().__init__(); self.E = E
    def forward(self, x): return self.E(x)

def loop(E, x, step, n):
    "What one writes by hand"
    for _ in range(n):
        x = x.detach().requires_grad_()
        g, = torch.autograd.grad(E(x).sum(), x)
        x = x.detach()-step*g+(2*step)**.5*torch.randn_like(x)
    return x

def cpu(f, device='cpu'):
    "Seconds: of the processor, or with a GPU of the clock"
    if device=='cpu': t = time.process_time(); f(); return time.process_time()-t
    torch.cuda.synchronize(); t = time.perf_counter(); f(); torch.cuda.synchronize()
    return time.perf_counter()-t

def speed(rounds, device='cpu'):
    torch.manual_seed(0)
    E = MLPEnergy().to(device)
    T = Theirs(E)
    print('\n| kernel | chains | torchebm [steps/s] | hepebm / torchebm | ebmkit / torchebm | plain loop / torchebm |\n|---|---|---|---|---|---|')
    for name,chains,n in (('Langevin',4096,20),('Langevin',512,80),('Langevin',64,200),('HMC, 10 leaps',4096,2),('HMC, 10 leaps',64,20)):
        x = torch.randn(chains, 2, device=device)
        if name=='Langevin':
            a = LangevinDynamics(T, step_size=.01, device=device)
            fs = [lambda: a.sample(x=x.clone(), n_steps=n), lambda: run(langevin(E, .01), start(E, x, 0), n), lambda: peer.LangevinDynamics(step_size=.01).sample(E, x, steps=n), lambda: loop(E, x, .01, n)]
        else:
            a = HamiltonianMonteCarlo(T, step_size=.05, n_leapfrog_steps=10, device=device)
            fs = [lambda: a.sample(x=x.clone(), n_steps=n), lambda: run(hmc(E, .05, 10), start(E, x, 0), n), lambda: peer.HMC(step_size=.05, leapfrog_steps=10).sample(E, x, steps=n)]
        for f in fs: f()
        t = np.array([[cpu(f, device) for f in fs] for _ in range(rounds)])
        q = np.quantile(t[:,:1]/t, (.16,.5,.84), axis=0)
        print(f'| {name} | {chains} | {n/np.median(t[:,0]):.0f} | '+' | '.join(f'**{q[1,i]:.2f}** [{q[0,i]:.2f}, {q[2,i]:.2f}]' for i in range(1, len(fs)))+(' |' if len(fs)==4 else ' | |'), flush=True)

def gradients(rounds):
    "Energy and gradient in closed form, against autograd of the same network"
    torch.manual_seed(0)
    print('\n| network | rows | autograd [ms] | autograd / closed form |\n|---|---|---|---|')
    jets, mlp = ((16,40),(128,40)), ((64,),(512,),(4096,))
    for name,net,sizes in (('2-128-128-1',MLPEnergy(),mlp),('deep set, 128',DeepSet(3),jets),('deep set, 64',DeepSet(3, 64),jets),('transformer, 64',SetTransformer(3),jets),('transformer, 32',SetTransformer(3, 32),jets)):
        for n,*p in sizes:
            x = torch.randn(n, *p, 3 if p else 2)
            E = given(net, dict(mask=torch.rand(n, *p)<.7)) if p else net
            tape = lambda x: E(x)
            k = max(1, int(.03/cpu(lambda: energy_grad(tape, x))))
            t = np.array([[cpu(lambda: [energy_grad(f, x) for _ in range(k)])/k for f in (tape, E)] for _ in range(rounds)])
            lo,mid,hi = np.quantile(t[:,0]/t[:,1], (.16,.5,.84))
            print(f'| {name} | {" x ".join(map(str, (n, *p)))} | {1e3*np.median(t[:,0]):.2f} | **{mid:.2f}** [{lo:.2f}, {hi:.2f}] |', flush=True)

def targets():
    S = torch.tensor([[1.,.95],[.95,1.]]); P = S.inverse()
    c = torch.stack([f(torch.arange(8)*torch.pi/4) for f in (torch.cos,torch.sin)], -1)*8**.5
    ring, banana = mixture(c, sd=.6), toys['banana']
    gauss = lambda x: ((x@P)*x).sum(-1)/2
    normal = lambda n, seed: torch.randn(n, 2, generator=generator(seed, name='bench'))
    yield 'Gaussian, .95', gauss, torch.zeros(2), torch.ones(2), lambda seed: normal(64, seed)@torch.linalg.cholesky(S).T
    yield 'banana', lambda x: -banana.log_prob(x), torch.zeros(2), torch.tensor([1.2, (.4**2+2*.6**2*1.2**4)**.5]), lambda seed: banana.sample(64, seed).float()
    yield 'ring of eight', lambda x: -ring.log_prob(x), torch.zeros(2), torch.full((2,), (.6**2+4)**.5), lambda seed: c[:1]+.6*normal(64, seed)

GRID = dict(mala=(.02,.05,.1,.2,.5,1.), hmc=(.05,.1,.2,.4,.7,1.))
HOT = (1., 2., 4., 8.)

def samplers(E, n, burn):
    "name, (starting points, setting, seed) -> draws (n, chains, 2), settings to choose from"
    def ours(make): return lambda x, h, seed: _keep(make(h), start(E, x, seed), burn+n)[burn:]
    def theirs(make, burn=burn): return lambda x, h, seed: make(h).sample(E, x, steps=burn+n, return_trajectory=True)[1+burn:]
    def torche(cls, **kw): return lambda x, h, seed: cls(Theirs(E), step_size=h, **kw).sample(x=x, n_steps=burn+n, return_trajectory=True).transpose(0, 1)[-n:]
    yield 'ebmkit MALA', theirs(lambda h: peer.MALA(step_size=h)), GRID['mala']
    yield 'hepebm MALA', ours(lambda h: mala(E, h)), GRID['mala']
    yield 'ebmkit tempering', theirs(lambda h: peer.ParallelTempering(peer.MALA(step_size=h), temperatures=HOT)), GRID['mala']
    yield 'hepebm tempering', ours(lambda h: parallel_tempering(partial(mala, step=h), E, HOT)), GRID['mala']
    yield 'torchebm Langevin', torche(LangevinDynamics), GRID['mala']
    yield 'hepebm Langevin', ours(lambda h: langevin(E, h)), GRID['mala']
    yield 'torchebm HMC', torche(HamiltonianMonteCarlo, n_leapfrog_steps=10), GRID['hmc']
    yield 'ebmkit HMC', theirs(lambda h: peer.HMC(step_size=h, leapfrog_steps=10)), GRID['hmc']
    yield 'hepebm HMC', ours(lambda h: hmc(E, h, 10)), GRID['hmc']
    yield 'hepebm HMC, jitter .3', ours(lambda h: hmc(E, h, 10, jitter=.3)), GRID['hmc']
    yield 'hepebm HMC, tuned', ours(lambda a: tune(partial(hmc, leaps=10, jitter=.3), burn, a, 'dense')(E)), (.8,.95)
    yield 'ebmkit NUTS', theirs(lambda a: peer.NUTS(warmup=burn, target_accept=a), 0), (.8,.95)
    yield 'hepebm NUTS', ours(lambda a: nuts(E, warm=burn, target=a, mass='dense')), (.8,.95)

def _keep(kernel, s, n):
    out = []
    for _ in range(n): s = kernel(s); out.append(s.x)
    return torch.stack(out)

def efficiency(rounds, burn=100, keep=400):
    print('\n| target | sampler | step or target | min ESS / CPU s [16, 84 %] | R-hat, median | error of mean, deviation |\n|---|---|---|---|---|---|')
    for name,E,mean,sd,draw in targets():
        def once(f, h, seed):
            torch.manual_seed(seed)
            x, t = draw(seed), time.process_time()
            xs = f(x, h, seed)
            t = time.process_time()-t
            return (ess(xs).min()/t, rhat(xs).max(), xs) if xs.isfinite().all() else (0., np.inf, xs)
        def judged(runs):
            xs = torch.cat([r[2].flatten(0,1) for r in runs])
            return max(((xs.mean(0)-mean)/sd).abs().max().item(), (xs.std(0)/sd-1).abs().max().item()) if xs.isfinite().all() else np.inf
        def worth(runs): off = judged(runs); return (off<.1, np.median([r[0] for r in runs]) if off<.1 else -off)
        best = {k: (f, max(hs, key=lambda h: worth([once(f, h, 100+i) for i in range(1 if 'NUTS' in k else 2)]))) for k,f,hs in samplers(E, keep, burn)}
        runs = {k: [] for k in best}
        for i in range(rounds):
            for k,(f,h) in best.items():
                if 'NUTS' not in k or i<3: runs[k].append(once(f, h, i))  # slow, and not asked for
        for k,r in runs.items():
            off, (lo,mid,hi) = judged(r), np.quantile([o[0] for o in r], (.16,.5,.84))
            print(f'| {name} | {k} | {best[k][1]} | '+(f'{mid:.0f} [{lo:.0f}, {hi:.0f}]' if off<.1 else f'does not count ({mid:.0f})')+f' | {np.median([o[1] for o in r]):.3f} | {off:.3f} |', flush=True)

if __name__=='__main__':
    rounds = int(sys.argv[1]) if len(sys.argv)>1 else 9
    print(f'torch {torch.__version__}, torchebm {version("torchebm")}, ebmkit {version("ebmkit")}, Python {platform.python_version()}, {platform.processor() or platform.machine()}, one thread, {rounds} rounds')
    if 'cuda' in sys.argv: print(torch.cuda.get_device_name()); speed(rounds, 'cuda')
    else:
        for part in sys.argv[2:] or ('speed','gradients','efficiency'): globals()[part](rounds)
